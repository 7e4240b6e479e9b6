//! Errors of JSON-RPC.

use crate::error::Error;

/// An error reply: a code and one sentence.
///
/// Any [`Error`] of this crate becomes one by `?`, with the negative errno as its code, as SPDK's own
/// methods do it; an [`Error::Invalid`] becomes [`INVALID_PARAMS`](Self::INVALID_PARAMS), and an
/// [`Error::Rpc`] keeps the code that the method which was called has answered with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code})")]
pub struct RpcError {
    code: i32,
    message: String,
}

impl RpcError {
    /// There is no such method.
    pub const METHOD_NOT_FOUND: i32 = -32601;
    /// The parameters are not what the method takes.
    pub const INVALID_PARAMS: i32 = -32602;
    /// The method failed by a fault of its own.
    pub const INTERNAL: i32 = -32603;

    /// An error of any code.
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The caller's fault.
    pub fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(Self::INVALID_PARAMS, message)
    }

    /// Our own fault.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Self::INTERNAL, message)
    }

    /// The code.
    pub fn code(&self) -> i32 {
        self.code
    }

    /// The positive errno value that the code stands for: SPDK's own methods answer with a negative errno.
    pub(crate) fn errno(&self) -> i32 {
        match self.code {
            Self::INVALID_PARAMS => libc::EINVAL,
            Self::METHOD_NOT_FOUND => libc::ENOSYS,
            code if (-4095..0).contains(&code) => -code,
            _ => libc::EIO,
        }
    }

    /// The sentence.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl From<Error> for RpcError {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Invalid(_) => Self::INVALID_PARAMS,
            Error::Panicked(_) => Self::INTERNAL,
            Error::Rpc { method, error } => {
                return Self::new(error.code, format!("{method}: {}", error.message));
            }
            error => -error.errno(),
        };
        Self::new(code, error.to_string())
    }
}
