//! What goes on until it is ended: logs and events.

use http_body_util::BodyExt;
use vswitch_proto::api::Event;

use crate::age::format_utc_ms;
use crate::args::{EventsArgs, LogsArgs};
use crate::client::{Call, Client, follow_events};
use crate::failure::{FAILED, Failure, print};
use crate::listing::ItemFormat;
use crate::output::Printer;
use crate::template::Value;

pub async fn logs(client: &Client, args: LogsArgs) -> Result<u8, Failure> {
    let mut call = Call::get(&["containers", &args.container, "logs"])
        .query("follow", &args.follow.to_string())
        .query("timestamps", &args.timestamps.to_string());
    if let Some(lines) = args.tail.0 {
        call = call.query("tail", &lines.to_string());
    }
    let mut body = client.stream(call).await?;
    let mut printer = Printer::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            Failure::new(FAILED, "the daemon closed the connection before the log ended; see its log")
        })?;
        let Ok(bytes) = frame.into_data() else { continue };
        if printer.push(&bytes)?.is_some() {
            break;
        }
    }
    Ok(0)
}

pub async fn events(client: &Client, args: EventsArgs) -> Result<u8, Failure> {
    follow_events(client, |event| print(line(event, args.format.as_ref())?)).await?;
    Ok(0)
}

fn line(event: &Event, format: Option<&ItemFormat>) -> Result<String, Failure> {
    let value = Value::of(event).expect("events are JSON");
    Ok(match format {
        None => for_people(event),
        Some(ItemFormat::Json) => serde_json::to_string(&value).expect("a value is JSON") + "\n",
        Some(ItemFormat::Template(template)) => template.render(&value)? + "\n",
    })
}

/// docker's line.
fn for_people(event: &Event) -> String {
    let name = Some(format!("name={}", event.name)).filter(|_| !event.name.is_empty());
    let further = event.attributes.iter().map(|(key, value)| format!("{key}={value}"));
    let facts: Vec<String> = further.chain(name).collect();
    let time = format_utc_ms(event.at_ms);
    format!("{time} {} {} {} ({})\n", event.kind, event.action, event.id, facts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_in_every_format() {
        let event = Event {
            seq: 3,
            at_ms: 1_431_431_490_042,
            kind: "network".into(),
            action: "connect".into(),
            id: "8b05".into(),
            name: "isolated_nw".into(),
            attributes: [("container".into(), "bda1".into())].into(),
        };
        for (format, expected) in [
            (None, "2015-05-12T11:51:30.042Z network connect 8b05 (container=bda1, name=isolated_nw)\n"),
            (
                Some("json"),
                "{\"seq\":3,\"at_ms\":1431431490042,\"type\":\"network\",\"action\":\"connect\",\"id\":\"8b05\",\
                 \"name\":\"isolated_nw\",\"attributes\":{\"container\":\"bda1\"}}\n",
            ),
            (Some("{{.type}} {{.attributes.container}} {{.attributes.x}}"), "network bda1 <no value>\n"),
        ] {
            let format: Option<ItemFormat> = format.map(|f| f.parse().unwrap());
            assert_eq!(line(&event, format.as_ref()).unwrap(), expected);
        }
        let bad: ItemFormat = "{{.Type}}".parse().unwrap();
        assert_eq!(line(&event, Some(&bad)).unwrap_err().code(), 2);
    }
}
