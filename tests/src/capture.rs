//! What tshark(1) says of frames that were captured.

use std::fs;
use std::process::Command;

/// Of libpcap's file format, in the byte order of this machine: magic number, version 2.4, no time zone, no accuracy,
/// the longest frame, Ethernet (pcap-savefile(5)).
const MAGIC: u32 = 0xa1b2_c3d4;
const FRAME_BYTES_MAX: u32 = 262_144;
const LINKTYPE_ETHERNET: u32 = 1;

/// "Good" in the fields `*.checksum.status`.
pub const GOOD: &str = "1";

/// The fields of one frame, in the order they were asked for. A field may occur more than once, outer headers first.
pub type Row = Vec<Vec<String>>;

/// Has every checksum verified, and asks for fields by their names in tshark.
pub fn dissect(frames: &[Vec<u8>], fields: &[&str]) -> Vec<Row> {
    let file = tempfile::NamedTempFile::new().expect("there is room for a capture");
    fs::write(file.path(), savefile(frames)).expect("there is room for a capture");
    let mut command = Command::new("tshark");
    command.args(["-n", "-T", "fields", "-E", "occurrence=a", "-r"]).arg(file.path());
    for preference in ["ip.check_checksum", "tcp.check_checksum", "udp.check_checksum"] {
        command.args(["-o", &format!("{preference}:TRUE")]);
    }
    command.args(["-o", "tcp.relative_sequence_numbers:FALSE"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let output = command.output().expect("tshark is installed (packaging/setup test)");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("fields are text");
    let occurrences = |cell: &str| match cell {
        "" => Vec::new(),
        _ => cell.split(',').map(String::from).collect(),
    };
    let rows: Vec<Row> = text.lines().map(|line| line.split('\t').map(occurrences).collect()).collect();
    assert_eq!(rows.len(), frames.len(), "a line for each frame");
    rows
}

fn savefile(frames: &[Vec<u8>]) -> Vec<u8> {
    let version = 2u32 | 4 << 16;
    let head = [MAGIC, version, 0, 0, FRAME_BYTES_MAX, LINKTYPE_ETHERNET];
    let mut file: Vec<u8> = head.iter().flat_map(|word| word.to_ne_bytes()).collect();
    for (number, frame) in frames.iter().enumerate() {
        let length = frame.len() as u32;
        // A second apart, in the order they came.
        for word in [number as u32, 0, length, length] {
            file.extend(word.to_ne_bytes());
        }
        file.extend(frame);
    }
    file
}
