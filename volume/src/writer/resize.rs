//! Changing the size while the volume is in use.

use tokio::sync::oneshot;
use torus_metadata::{Command, Revision};

use super::asks::Asker;
use super::{Event, Writer};
use crate::Error;
use crate::record::PAGE;

/// A change of the size on its way.
pub(super) struct Shrink {
    size: u64,
    /// The size so far.
    former: u64,
    asker: Asker<()>,
    /// Looks for data behind the new end; otherwise the change is being committed.
    is_looking: bool,
}

impl Writer {
    /// Changes the size; requests behind a smaller one are refused from now on.
    pub(super) fn begin_resize(&mut self, size: u64, discard: bool, asker: Asker<()>) {
        let busy = self.resize.is_some().then_some(Error::Busy);
        if let Some(error) = self.failed.clone().or(busy) {
            return self.answer_resize(asker, Err(error));
        }
        let former = self.size.get();
        let shrinks = size < former;
        let is_looking = shrinks && !discard;
        self.resize = Some(Shrink { size, former, asker, is_looking });
        if shrinks {
            self.size.set(size);
        }
        if shrinks && discard {
            self.cut_pages(size.div_ceil(PAGE.into()), former.div_ceil(PAGE.into()));
        } else if !shrinks {
            self.commit_size(None);
        }
    }

    /// Looks for data behind the new end, as soon as the map can tell.
    pub(super) fn keep_shrinking(&mut self) {
        let Some(Shrink { size, former, is_looking: true, .. }) = self.resize else { return };
        let first = size.div_ceil(PAGE.into());
        let pending = self.overlay.first_from(first);
        let Ok(mapped) = self.map.first_mapped(first) else { return };
        let Some(page) = pending.into_iter().chain(mapped).min() else {
            return self.commit_size(None);
        };
        self.size.set(former);
        if let Some(shrink) = self.resize.take() {
            let error = Error::HoldsData { offset: page * u64::from(PAGE) };
            self.answer_resize(shrink.asker, Err(error));
        }
    }

    /// Cuts what is behind the new end, and commits the size once that is durable.
    fn cut_pages(&mut self, first: u64, end: u64) {
        let mut page = first;
        while page < end {
            let count = (end - page).min(1 << 31) as u32;
            self.overlay.zero(page, count);
            page += u64::from(count);
        }
        let (reply, cut) = oneshot::channel();
        self.wait_durable(self.overlay.queued(), reply);
        self.commit_size(Some(cut));
    }

    fn commit_size(&mut self, cut: Option<oneshot::Receiver<Result<(), Error>>>) {
        let Some(shrink) = &mut self.resize else { return };
        shrink.is_looking = false;
        let (size, ask) = (
            shrink.size,
            match shrink.asker {
                Asker::Metadata(ask) => Some(ask),
                Asker::Handle(_) => None,
            },
        );
        let (volume, epoch) = (self.identity.volume, Some(self.identity.epoch));
        let command = Command::ResizeVolume { volume, epoch, size, ask };
        let context = self.context.clone();
        self.push_event(async move {
            let cut = match cut {
                Some(cut) => cut.await.unwrap_or(Err(Error::Closed)),
                None => Ok(()),
            };
            let result = match cut {
                Ok(()) => context.tell_when(command).await,
                Err(error) => Err(error),
            };
            Event::Resized { size, result }
        });
    }

    pub(super) fn resized(&mut self, size: u64, result: Result<Revision, Error>) {
        let Some(resize) = self.resize.take() else { return };
        self.size.set(if result.is_ok() { size } else { resize.former });
        if let Ok(revision) = result {
            self.resized_at = revision;
        }
        match (resize.asker, result.map(drop)) {
            // Committing it has answered the ask.
            (Asker::Metadata(_), Ok(())) => {}
            (asker, result) => self.answer_resize(asker, result),
        }
    }

    /// The volume failed while it was being resized.
    pub(super) fn fail_resize(&mut self, error: &Error) {
        // One that is being committed hears from that.
        if let Some(resize) = self.resize.take_if(|resize| resize.is_looking)
            && let Asker::Handle(reply) = resize.asker
        {
            let _ = reply.send(Err(error.clone()));
        }
    }

    fn answer_resize(&self, asker: Asker<()>, result: Result<(), Error>) {
        match (asker, result) {
            (Asker::Handle(reply), result) => {
                let _ = reply.send(result);
            }
            (Asker::Metadata(ask), Err(error)) => self.refuse_ask(ask, &error),
            (Asker::Metadata(_), Ok(())) => {}
        }
    }
}
