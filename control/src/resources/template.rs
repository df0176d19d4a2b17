//! Words in braces that stand for something else in a component's metadata: `{uuid}`, `{podName}`,
//! `{namespace}` and `{appID}`.
//!
//! In daprd's order, each in what the one before has made of the text. A `{uuid}` stays the same
//! for as long as the process lives, so that reading the same file again changes nothing.

#![forbid(unsafe_code)]

use crate::config::Environment;
use sha2::{Digest, Sha256};
use std::{borrow::Cow, fmt::Write, sync::OnceLock};

/// What they stand for, for one app.
pub(super) struct Template<'a> {
    pub(super) app_id: &'a str,
    pub(super) namespace: &'a str,
    pub(super) env: Environment<'a>,
}

impl Template<'_> {
    /// `property` and `component` tell one `{uuid}` from another.
    ///
    /// # Errors
    /// In daprd's words.
    pub(super) fn fill<'t>(
        &self,
        text: &'t str,
        component: &str,
        property: &str,
    ) -> Result<Cow<'t, str>, String> {
        if !text.contains('{') {
            return Ok(Cow::Borrowed(text));
        }
        let mut filled = text.to_owned();
        for count in 0..UUIDS_MAX {
            if !filled.contains(UUID) {
                break;
            }
            let uuid = uuid(&[self.namespace, self.app_id, component, property], count);
            filled = filled.replacen(UUID, &uuid, 1);
        }
        if filled.contains(POD_NAME) {
            let pod_name = (self.env)("POD_NAME").filter(|name| !name.is_empty());
            let pod_name = pod_name.ok_or_else(|| {
                format!(
                    "failed to parse metadata: property {property} refers to {POD_NAME} but podName \
                     is not set; set POD_NAME"
                )
            })?;
            filled = filled.replace(POD_NAME, &pod_name);
        }
        let Self { app_id, namespace, .. } = self;
        filled = filled.replace("{namespace}", &format!("{namespace}.{app_id}"));
        Ok(Cow::Owned(filled.replace("{appID}", app_id)))
    }
}

/// Version 4, as far as anybody can tell: different in each process, for each place and number.
fn uuid(place: &[&str], count: usize) -> String {
    static SEED: OnceLock<u128> = OnceLock::new();
    let mut hash = Sha256::new_with_prefix(SEED.get_or_init(|| fastrand::u128(..)).to_be_bytes());
    for part in place {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.update((count as u64).to_be_bytes());
    let mut bytes: [u8; 16] = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    // RFC 9562 §5.4: version and variant.
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}

const UUID: &str = "{uuid}";
const POD_NAME: &str = "{podName}";

/// In one value.
const UUIDS_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_for_the_app_and_where_it_runs() {
        let env = |name: &str| (name == "POD_NAME").then(|| "pod-1".to_owned());
        let template = Template { app_id: "a", namespace: "shop", env: &env };
        for (text, want) in [
            ("plain", "plain"),
            ("{other}{", "{other}{"),
            ("{appID}-{appID}", "a-a"),
            // With the app's id behind it, as with daprd.
            ("{namespace}", "shop.a"),
            ("{podName}.", "pod-1."),
            ("{appid}", "{appid}"),
        ] {
            assert_eq!(template.fill(text, "c", "p").unwrap(), want, "{text}");
        }
        let nowhere = Template { env: &|_| None, ..template };
        let told = nowhere.fill("{podName}", "c", "p").unwrap_err();
        assert!(told.contains("property p refers to {podName} but podName is not set"), "{told}");
    }

    #[test]
    fn each_uuid_is_another_and_stays_what_it_is() {
        let template = Template { app_id: "a", namespace: "shop", env: &|_| None };
        let fill = |text, property| template.fill(text, "c", property).unwrap().into_owned();
        let two = fill("{uuid} {uuid}", "p");
        assert_eq!(two, fill("{uuid} {uuid}", "p"), "read again");
        let (first, second) = two.split_once(' ').unwrap();
        assert_ne!(first, second);
        assert_ne!(first, fill("{uuid}", "q"));
        let lengths: Vec<usize> = first.split('-').map(str::len).collect();
        assert_eq!((lengths, &first[14..15]), (vec![8, 4, 4, 4, 12], "4"), "{first}");
    }
}
