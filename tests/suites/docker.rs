//! The plugin with a real Docker engine: the guide with `docker` itself, and what must survive what.

use vswitch_tests::docker::Docker;

#[path = "docker/guide.rs"]
mod guide;
