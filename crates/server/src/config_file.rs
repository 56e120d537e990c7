//! `--config weir.yaml`: the options of the command line, written with underscores, and
//! `settings:` with defaults of settings. What the command line or the environment says goes
//! before the file.

use crate::options::ServerArgs;
use serde_json::Value;
use std::fmt::Display;
use std::path::Path;
use std::str::FromStr;
use weir_base::error::did_you_mean;

/// Puts one value where nothing is set yet.
type Put = fn(&mut ServerArgs, &str) -> Result<(), String>;

fn put<T: FromStr<Err: Display>>(slot: &mut Option<T>, text: &str) -> Result<(), String> {
    let value = text.parse().map_err(|e: T::Err| e.to_string())?;
    slot.get_or_insert(value);
    Ok(())
}

/// (key, what fits, how to put it)
const KEYS: &[(&str, &str, Put)] = &[
    ("data_dir", "a path", |a, t| put(&mut a.data_dir, t)),
    ("listen", "an IP address", |a, t| put(&mut a.listen, t)),
    ("http_port", "a port from 0 to 65535", |a, t| put(&mut a.http_port, t)),
    ("http_streaming_port", "a port from 0 to 65535", |a, t| put(&mut a.http_streaming_port, t)),
    ("password_file", "a path", |a, t| put(&mut a.password_file, t)),
    ("memory_limit", "bytes, or a number with KiB, MiB, GiB or %", |a, t| put(&mut a.memory_limit, t)),
    ("log_level", "error, warn, info, debug or trace", |a, t| put(&mut a.log_level, t)),
    ("max_connections", "a count", |a, t| put(&mut a.max_connections, t)),
    ("max_concurrent_queries", "a count", |a, t| put(&mut a.max_concurrent_queries, t)),
    ("parts_url", "s3://BUCKET[/PREFIX]", |a, t| put(&mut a.parts_url, t)),
    ("checkpoints_url", "s3://BUCKET[/PREFIX]", |a, t| put(&mut a.checkpoints_url, t)),
    ("parts_endpoint", "a URL", |a, t| put(&mut a.parts_endpoint, t)),
    ("parts_region", "a name", |a, t| put(&mut a.parts_region, t)),
    ("parts_key_env", "a variable's name", |a, t| put(&mut a.parts_key_env, t)),
    ("allowed_remote_hosts", "hosts with commas between", |a, t| put(&mut a.allowed_remote_hosts, t)),
    ("allowed_paths", "absolute paths with commas between", |a, t| put(&mut a.allowed_paths, t)),
    ("parts_secret_env", "a variable's name", |a, t| put(&mut a.parts_secret_env, t)),
];

/// # Errors
/// One line that names file, key and remedy.
#[allow(clippy::disallowed_methods, reason = "configuration, before there is a data directory")]
pub fn fill(args: &mut ServerArgs, file: &Path) -> Result<(), String> {
    let name = file.display();
    let text = std::fs::read_to_string(file).map_err(|e| format!("{name}: can not be read: {e}"))?;
    fill_from_text(args, &text).map_err(|e| format!("{name}: {e}"))
}

fn fill_from_text(args: &mut ServerArgs, text: &str) -> Result<(), String> {
    if text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#')) {
        return Ok(());
    }
    let value: Value = serde_saphyr::from_str(text).map_err(|e| {
        let why = e.to_string();
        format!("is not readable YAML: {}", why.lines().next().unwrap_or("").trim())
    })?;
    let Value::Object(members) = value else {
        return Err("holds no `key: value` lines".into());
    };
    for (key, value) in members {
        if key == "settings" {
            settings(args, value)?;
            continue;
        }
        let Some((_, fits, put)) = KEYS.iter().find(|(k, _, _)| *k == key) else {
            let known = KEYS.iter().map(|(k, _, _)| *k).chain(["settings"]);
            return Err(format!(
                "key {key} is not known{}{}",
                did_you_mean(&key, known),
                "; `weir server --help` lists the options, written with underscores here"
            ));
        };
        let text = scalar(&value).ok_or_else(|| format!("key {key} holds no single value; give {fits}"))?;
        put(args, &text).map_err(|e| format!("key {key} can not be {text}: {e}; give {fits}"))?;
    }
    Ok(())
}

fn settings(args: &mut ServerArgs, value: Value) -> Result<(), String> {
    let Value::Object(members) = value else {
        return Err("key settings holds no `name: value` lines".into());
    };
    for (name, value) in members {
        let text = scalar(&value).ok_or_else(|| format!("setting {name} holds no single value"))?;
        args.settings.insert(name, text);
    }
    Ok(())
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(s) => Some(s.clone()),
        Value::Number(n) => Some(n.to_string()),
        Value::Bool(b) => Some(if *b { "1" } else { "0" }.into()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_files_are_one_line_with_key_and_remedy() {
        // (file, what the line must hold)
        let cases: &[(&str, &[&str])] = &[
            ("htp_port: 1", &["htp_port", "did you mean http_port?"]),
            ("http_port: 70000", &["http_port", "70000", "from 0 to 65535"]),
            ("http_port: [1, 2]", &["http_port", "single value"]),
            ("listen: localhost", &["listen", "localhost", "IP address"]),
            ("memory_limit: lots", &["memory_limit", "lots", "GiB"]),
            ("log_level: loud", &["log_level", "loud", "error, warn"]),
            ("settings: 5", &["settings"]),
            ("just words", &["key: value"]),
            ("a: [", &["YAML"]),
        ];
        for (text, parts) in cases {
            let e = fill_from_text(&mut ServerArgs::default(), text).unwrap_err();
            assert!(!e.contains('\n'), "{text}: {e}");
            for part in *parts {
                assert!(e.contains(part), "{text}: {e} lacks {part}");
            }
        }
    }

    #[test]
    fn the_command_line_goes_before_the_file() {
        let mut args = ServerArgs { http_port: Some(1), ..ServerArgs::default() };
        let text =
            "# ports\nhttp_port: 2\nhttp_streaming_port: 3\nmemory_limit: 1GiB\nsettings:\n  ack: written\n";
        fill_from_text(&mut args, text).unwrap();
        assert_eq!((args.http_port, args.http_streaming_port), (Some(1), Some(3)));
        assert_eq!(args.settings["ack"], "written");
        fill_from_text(&mut args, "# nothing\n\n").unwrap();
    }
}
