//! How a pipeline leaves the machine: packets of one engine go over TCP to a second engine, and
//! back. Each packet is a frame that begins with its length, and the end is a frame of its own: TCP
//! ends a stream in the same way if the process at its other end is killed.
//!
//! ```text
//! engine one <=> bridge -- TCP -- bridge <=> engine two
//! ```

#![allow(clippy::print_stdout, reason = "an example says what it did")]

use std::io;
use std::net::Shutdown;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use smol::io::{AsyncReadExt, AsyncWriteExt, BufReader, BufWriter};
use smol::net::{TcpListener, TcpStream};
use wakering::{Endpoint, Receiver, Sender, SpscFace, SpscHandle};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const PACKETS: usize = 2000;

/// In place of a length: no more packets come.
const END: u32 = u32::MAX;

fn main() -> Result<()> {
    smol::block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (one, application) = channel()?;
        let near = smol::spawn(bridge(application, TcpStream::connect(address)));
        let (two, application) = channel()?;
        let far = smol::spawn(bridge(application, async move { Ok(listener.accept().await?.0) }));

        let echo = smol::spawn(async move {
            while let Some(packet) = two.recv().await {
                two.send(packet).await?;
            }
            Result::Ok(two.finished())
        });
        // Packets of all sizes, including empty ones.
        let (mut sender, mut receiver) = one.into_split();
        let packet = |number: usize| Bytes::from(number.to_le_bytes().repeat(number % 300));
        let sending = async {
            for number in 0..PACKETS {
                sender.send(packet(number)).await?;
            }
            sender.close().await?;
            Result::Ok(())
        };
        let receiving = async {
            for number in 0..PACKETS {
                assert_eq!(receiver.recv().await, Some(packet(number)), "packet {number}");
            }
            Result::Ok(())
        };
        smol::future::try_zip(sending, receiving).await?;
        // The end of the stream has gone to the other engine and come back.
        assert_eq!(receiver.recv().await, None);
        assert_eq!(receiver.finished(), Some(Ok(())));
        assert_eq!(echo.await?, Some(Ok(())));
        near.await?;
        far.await?;
        println!("{PACKETS} packets went to the second engine and back");
        Ok(())
    })
}

/// Returns an engine's end, and the application's, which the bridge uses.
fn channel() -> Result<(Endpoint, Endpoint)> {
    let (face, descriptor) = SpscFace::pair()?;
    Ok((face.into(), SpscHandle::from_fd(descriptor)?.into()))
}

async fn bridge(end: Endpoint, stream: impl Future<Output = io::Result<TcpStream>>) -> Result<()> {
    // Whatever goes wrong from here on cancels the channel, so that its engine does not take a part
    // for the whole.
    end.cancel_on_drop(true);
    let stream = stream.await?;
    stream.set_nodelay(true)?;
    let max = end.max_packet();
    let (sender, receiver) = end.into_split();
    smol::future::try_zip(outwards(receiver, stream.clone()), inwards(stream, sender, max)).await?;
    Ok(())
}

/// Forwards packets until the engine sends no more, and passes the end on to the other machine.
async fn outwards(mut receiver: Receiver, stream: TcpStream) -> Result<()> {
    let mut writer = BufWriter::new(stream.clone());
    // A stream that is cut off ends with an error, and so does the bridge.
    while let Some(packet) = receiver.next().await.transpose()? {
        write_frame(&mut writer, &packet).await?;
        // A packet does not wait for the next one, but packets that are there go together.
        while let Ok(packet) = receiver.try_recv() {
            write_frame(&mut writer, &packet).await?;
        }
        writer.flush().await?;
    }
    writer.write_all(&END.to_be_bytes()).await?;
    writer.flush().await?;
    stream.shutdown(Shutdown::Write)?;
    Ok(())
}

async fn write_frame(writer: &mut BufWriter<TcpStream>, packet: &[u8]) -> Result<()> {
    writer.write_all(&u32::try_from(packet.len())?.to_be_bytes()).await?;
    writer.write_all(packet).await?;
    Ok(())
}

/// Forwards frames until the other machine says that no more come, and passes the end on to the
/// engine.
async fn inwards(stream: TcpStream, mut sender: Sender, max: usize) -> Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = [0; 4];
        // Fails if the stream ends here.
        reader.read_exact(&mut length).await?;
        let length = u32::from_be_bytes(length);
        if length == END {
            return Ok(sender.close().await?);
        }
        // The length comes from the network, so it is checked first.
        let length = usize::try_from(length)?;
        if length > max {
            return Err(format!("a frame of {length} bytes, at most {max}").into());
        }
        let mut packet = vec![0; length];
        reader.read_exact(&mut packet).await?;
        sender.send(packet.into()).await?;
    }
}
