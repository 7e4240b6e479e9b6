//! Operations that are left in flight.
crate::cases![];
