//! Networks that are only a configuration, and networks made from one: what a record keeps of docker's
//! `--config-only`, `--config-from` and `--attachable`, as options that nobody can set otherwise.

use std::collections::BTreeMap;

use vswitch_proto::api::NetworkCreate;

use super::Network;

/// The configuration as JSON: a network that has this option is only that, and no container can be connected to it.
pub const CONFIG_ONLY_OPTION: &str = "vswitch.config-only";
/// Name of the configuration that the network was made from.
pub const CONFIG_FROM_OPTION: &str = "vswitch.config-from";
pub const ATTACHABLE_OPTION: &str = "vswitch.attachable";

/// Whether the option is one of those that a record keeps beside what the user asked for.
pub fn is_reserved(option: &str) -> bool {
    matches!(option, CONFIG_ONLY_OPTION | CONFIG_FROM_OPTION | ATTACHABLE_OPTION)
}

impl Network {
    pub fn is_config_only(&self) -> bool {
        self.options.contains_key(CONFIG_ONLY_OPTION)
    }

    /// What a network made from this one is like, if this one is only a configuration.
    pub fn configuration(&self) -> Option<NetworkCreate> {
        serde_json::from_str(self.options.get(CONFIG_ONLY_OPTION)?).ok()
    }

    pub fn config_from(&self) -> Option<&str> {
        self.options.get(CONFIG_FROM_OPTION).map(String::as_str)
    }

    pub fn is_attachable(&self) -> bool {
        self.options.contains_key(ATTACHABLE_OPTION)
    }

    /// The options that the user gave to the driver.
    pub fn driver_options(&self) -> BTreeMap<String, String> {
        let given = self.options.iter().filter(|(option, _)| !is_reserved(option));
        given.map(|(option, value)| (option.clone(), value.clone())).collect()
    }
}
