//! How the programs end: one line that says what is wrong and what to do, and an exit code that
//! scripts can rely on (0 done, 1 failed, 2 wrong usage).

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

/// Why a program ends.
#[derive(Debug)]
pub enum Failure {
    /// The arguments make no sense: exit code 2.
    Usage(Box<dyn Error + Send + Sync>),
    /// What was asked could not be done: exit code 1.
    Failed(Box<dyn Error + Send + Sync>),
}

impl Failure {
    /// The arguments make no sense.
    pub fn usage(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Usage(error.into())
    }

    /// What was asked could not be done.
    pub fn failed(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed(error.into())
    }

    /// The error with its causes, in one line.
    pub fn line(&self) -> String {
        let (Self::Usage(error) | Self::Failed(error)) = self;
        chain(&**error)
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(Box::new(error))
    }
}

/// An error with its causes, in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        // Transparent wrappers repeat what they wrap.
        if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
        source = cause.source();
    }
    line.replace('\n', " ")
}

/// Parses the arguments, runs the program, and turns what comes of it into an exit code.
#[expect(clippy::print_stderr, clippy::print_stdout, reason = "errors and help are for the person")]
pub fn main<A: Parser>(run: impl FnOnce(A) -> Result<(), Failure>) -> ExitCode {
    let arguments = match A::try_parse() {
        Ok(arguments) => arguments,
        Err(error)
            if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) =>
        {
            print!("{}", error.render());
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{}", usage_line(&error));
            return ExitCode::from(2);
        }
    };
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {}", failure.line());
            match failure {
                Failure::Usage(_) => ExitCode::from(2),
                Failure::Failed(_) => ExitCode::from(1),
            }
        }
    }
}

/// clap's message without the usage text behind it, in one line.
fn usage_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let message: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    if message.is_empty() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "error: a command is missing; see --help".to_owned();
    }
    message.join(" ").replace(" For more information, try '--help'.", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the store")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn causes_stand_behind_what_they_caused() {
        let failure = Failure::from(Outer(std::io::Error::other("the disk\nis gone")));
        assert_eq!(failure.line(), "cannot open the store: the disk is gone");
    }
}
