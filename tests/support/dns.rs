//! A name server that knows one answer.

use std::net::{SocketAddr, UdpSocket};

const A: [u8; 2] = [0, 1];
const HEADER: usize = 12;

/// Answers on `addr` that every name is this machine, for as long as the tests run.
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

/// RFC 1035, section 4: the id and the question of the query, and one address if it asks for such.
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    // A name is labels, each after its length, and ends with an empty one.
    let name = query.get(HEADER..)?.iter().position(|byte| *byte == 0)?;
    let question = query.get(HEADER..HEADER + name + 5)?;
    let answers = u8::from(question[name + 1..name + 3] == A);
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, answers, 0, 0, 0, 0]);
    answer.extend(question);
    if answers == 1 {
        // The name of the question, A, IN, a minute, four bytes.
        answer.extend([0xc0, HEADER as u8, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
    }
    Some(answer)
}
