//! A name server with one answer for every name.

use std::net::{SocketAddr, UdpSocket};

const A: [u8; 2] = [0, 1];
const HEADER: usize = 12;

/// Serves on `addr` until the tests end; every name resolves to 127.0.0.1.
pub fn serve(addr: SocketAddr) {
    let socket = UdpSocket::bind(addr).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, asker)) = socket.recv_from(&mut buffer) {
            if let Some(answer) = answer(&buffer[..length]) {
                let _ = socket.send_to(&answer, asker);
            }
        }
    });
}

/// The answer to a query (RFC 1035, section 4), with an address if the query asks for one.
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    // A name is a sequence of labels, each after its length; the last is empty.
    let name = query.get(HEADER..)?.iter().position(|byte| *byte == 0)?;
    let question = query.get(HEADER..HEADER + name + 5)?;
    let answers = u8::from(question[name + 1..name + 3] == A);
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, answers, 0, 0, 0, 0]);
    answer.extend(question);
    if answers == 1 {
        // A pointer to the question's name, type A, class IN, a lifetime of 60 seconds, and 4 bytes of address.
        answer.extend([0xc0, HEADER as u8, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
    }
    Some(answer)
}
