//! The pair of sockets between the two processes of a run, on which they agree: names, descriptors,
//! and that both are ready. No packet that is measured goes over it.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::Result;

/// Descriptors that go in one message, at most.
const MAX: usize = 8;

#[derive(Debug)]
pub(crate) struct Link(UnixStream);

impl Link {
    /// The end that this process was started with, as its standard input.
    pub(crate) fn inherited() -> io::Result<Self> {
        let descriptor = io::stdin().as_fd().try_clone_to_owned()?;
        Ok(Self(UnixStream::from(descriptor)))
    }

    /// Returns once the other side has come to the same place.
    pub(crate) fn meet(&mut self) -> io::Result<()> {
        self.0.write_all(b"!")?;
        let mut byte = [0];
        self.0.read_exact(&mut byte)?;
        if byte == *b"!" { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    /// Sends a text of at most 255 bytes.
    pub(crate) fn tell(&mut self, text: &str) -> Result<()> {
        self.0.write_all(&[u8::try_from(text.len())?])?;
        Ok(self.0.write_all(text.as_bytes())?)
    }

    pub(crate) fn hear(&mut self) -> Result<String> {
        let mut len = [0];
        self.0.read_exact(&mut len)?;
        let mut text = vec![0; usize::from(len[0])];
        self.0.read_exact(&mut text)?;
        Ok(String::from_utf8(text)?)
    }

    pub(crate) fn pass(&mut self, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
            Err("too many descriptors for one message")?;
        }
        sendmsg(&self.0, &[IoSlice::new(b"#")], &mut ancillary, SendFlags::empty())?;
        Ok(())
    }

    pub(crate) fn take<const N: usize>(&mut self) -> Result<[OwnedFd; N]> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let mut parts = [IoSliceMut::new(&mut byte)];
        recvmsg(&self.0, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        let descriptors: Vec<OwnedFd> = ancillary
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            })
            .flatten()
            .collect();
        let count = descriptors.len();
        descriptors.try_into().map_err(|_| format!("{count} descriptors instead of {N}").into())
    }
}
