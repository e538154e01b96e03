//! The plugin with a real Docker engine: the guide with `docker` itself, and what must survive what.
//!
//! All of it is in one module, by whose name it is left out where there is no root to run an engine.

#[path = "docker/with_docker.rs"]
mod with_docker;
