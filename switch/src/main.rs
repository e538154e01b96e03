//! vswitchd.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match (arguments.next(), arguments.next()) {
        (Some(first), Some(dir)) if first == "shim" => vswitch::container::shim::main(Path::new(&dir)),
        _ => ExitCode::SUCCESS,
    }
}
