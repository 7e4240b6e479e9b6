//! Integration tests that run real SPDK programs.
