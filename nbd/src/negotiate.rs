//! Carries a [`Handshake`] out over a stream: reads, writes, asks the exports.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::error::Chain;
use crate::handshake::{Agreement, Answer, Close, Handshake, Question, Step};
use crate::{Export, ExportInfo, Exports, OpenError};

/// A connection that is ready for requests.
pub(crate) struct Negotiated {
    pub(crate) export: Arc<dyn Export>,
    pub(crate) agreement: Agreement,
    /// Bytes that the client sent ahead.
    pub(crate) input: BytesMut,
}

/// Why there was no agreement.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NegotiateError {
    #[error("{0}")]
    Closed(Close),
    #[error("the handshake took longer than {0:?}")]
    Late(Duration),
    #[error("the server is shutting down")]
    ShuttingDown,
    #[error("the client is gone")]
    Gone(#[source] io::Error),
}

/// Negotiates until an export is open, within `patience` for all that the client has to do; the
/// time that the exports take is theirs.
pub(crate) async fn negotiate<S>(
    stream: &mut S,
    exports: &dyn Exports,
    shutdown: &CancellationToken,
    patience: Duration,
) -> Result<Negotiated, NegotiateError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut out = BytesMut::new();
    let mut handshake = Handshake::new(&mut out);
    let mut left = patience;
    let mut export = None;
    let mut step = Step::Receive;
    loop {
        let started = Instant::now();
        let exchange = exchange(stream, &mut handshake, &mut out, &step);
        let exchanged = tokio::select! {
            biased;
            done = timeout_at(started + left, exchange) => {
                done.unwrap_or(Err(NegotiateError::Late(patience)))
            }
            () = shutdown.cancelled(), if export.is_none() => Err(NegotiateError::ShuttingDown),
        };
        if let Err(error) = exchanged {
            close(export).await;
            return Err(error);
        }
        left = left.saturating_sub(started.elapsed());
        step = match step {
            Step::Receive => handshake.step(&mut out),
            Step::Ask(question) => {
                let answer = ask(exports, question, &mut export).await;
                handshake.answer(answer, &mut out)
            }
            Step::Close(reason) => {
                close(export).await;
                return Err(NegotiateError::Closed(reason));
            }
            Step::Agreed(agreement) => match export {
                Some(export) => {
                    let input = handshake.into_input();
                    return Ok(Negotiated { export, agreement, input });
                }
                None => unreachable!("an agreement without an open export"),
            },
        };
    }
}

/// Sends what is to be sent and, if the step says so, receives.
async fn exchange<S>(
    stream: &mut S,
    handshake: &mut Handshake,
    out: &mut BytesMut,
    step: &Step,
) -> Result<(), NegotiateError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if !out.is_empty() {
        stream.write_all_buf(out).await.map_err(NegotiateError::Gone)?;
        stream.flush().await.map_err(NegotiateError::Gone)?;
    }
    if *step == Step::Receive {
        let count = stream.read_buf(handshake.input()).await.map_err(NegotiateError::Gone)?;
        if count == 0 {
            return Err(NegotiateError::Gone(io::ErrorKind::UnexpectedEof.into()));
        }
    }
    Ok(())
}

async fn close(export: Option<Arc<dyn Export>>) {
    if let Some(export) = export {
        export.close().await;
    }
}

async fn ask(
    exports: &dyn Exports,
    question: Question,
    opened: &mut Option<Arc<dyn Export>>,
) -> Answer {
    match question {
        Question::List => Answer::Listed(exports.list().await.map_err(OpenError::from)),
        Question::Describe(name) => Answer::Described(describe(exports, &name).await),
        Question::Open(name) => Answer::Opened(match open(exports, &name).await {
            Ok(export) => {
                let info = export.info();
                *opened = Some(export);
                Ok(bounded(info))
            }
            Err(error) => Err(error),
        }),
    }
}

async fn describe(exports: &dyn Exports, name: &str) -> Result<ExportInfo, OpenError> {
    let info = match resolve(exports, name).await {
        Ok(name) => exports.info(&name).await,
        Err(error) => Err(error),
    };
    info.map(bounded).inspect_err(|error| report(name, error))
}

async fn open(exports: &dyn Exports, name: &str) -> Result<Arc<dyn Export>, OpenError> {
    let export = match resolve(exports, name).await {
        Ok(name) => exports.open(&name).await,
        Err(error) => Err(error),
    };
    export.inspect_err(|error| report(name, error))
}

/// The empty name stands for the only export, if there is only one.
async fn resolve(exports: &dyn Exports, name: &str) -> Result<String, OpenError> {
    if !name.is_empty() {
        return Ok(name.to_owned());
    }
    let mut names = exports.list().await?;
    match (names.pop(), names.is_empty()) {
        (Some(only), true) => Ok(only),
        _ => Err(OpenError::Unknown),
    }
}

/// No payload is longer than what the server takes, whatever the export says.
fn bounded(mut info: ExportInfo) -> ExportInfo {
    info.max_block = info.max_block.min(crate::check::MAX_PAYLOAD);
    info
}

fn report(name: &str, error: &OpenError) {
    match error {
        OpenError::Failed(_) => warn!(name, error = %Chain(error), "cannot open an export"),
        _ => debug!(name, %error, "export refused"),
    }
}
