//! What [`#[main]`](crate::main) expands to.

use std::fmt::Display;
use std::process::ExitCode;

use super::SpdkApp;
use crate::error::Error;

/// What an `async fn main()` may return.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`main` returns nothing or a `Result<(), E>` whose error can be displayed"
)]
pub trait MainResult {
    fn check(self) -> Result<(), String>;
}

impl MainResult for () {
    fn check(self) -> Result<(), String> {
        Ok(())
    }
}

impl<E: Display> MainResult for Result<(), E> {
    fn check(self) -> Result<(), String> {
        self.map_err(|error| error.to_string())
    }
}

/// Runs the app of `main`, and gives the code to exit with.
#[doc(hidden)]
pub fn run_main<F: Future<Output: MainResult>>(name: &str, main: fn() -> F) -> ExitCode {
    let app = SpdkApp::builder().name(name).args(std::env::args_os());
    let error = match app.block_on(async { Ok(main().await.check()) }) {
        Ok(Ok(())) | Err(Error::Stopped(_)) => return ExitCode::SUCCESS,
        Ok(Err(error)) => error,
        Err(error) => error.to_string(),
    };
    eprintln!("{name}: {error}");
    ExitCode::FAILURE
}
