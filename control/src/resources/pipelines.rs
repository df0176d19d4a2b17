//! The pipelines of one app: what its Configuration names, put together from the components in its
//! scope.
//!
//! A handler whose component is not there is passed over, as with daprd, and counts again once the
//! component has come.

#![forbid(unsafe_code)]

use super::{component::Component, middleware, secrets::Stores, template::Template};
use crate::config::{
    file::Problem,
    pipeline::{Handler, PipelineSpecs},
};
use snapshot::policy::{Pipelines, Step};

/// What handlers are made of, for one app.
pub(super) struct Around<'a> {
    pub(super) components: &'a [&'a Component],
    pub(super) stores: &'a Stores<'a>,
    pub(super) template: &'a Template<'a>,
}

/// `None`: nothing stands in the way of any request. What is to be said goes to `notes`.
///
/// # Errors
/// All that cannot be done, each with the place of its component and of the handler.
pub(super) fn compile(
    specs: &PipelineSpecs,
    around: &Around<'_>,
    notes: &mut Vec<String>,
) -> Result<Option<Pipelines>, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut steps = |handlers: &[Handler]| {
        let mut steps = Vec::new();
        for handler in handlers {
            match step(handler, around, notes) {
                Ok(step) => steps.extend(step),
                Err(problem) => problems.push(problem),
            }
        }
        steps
    };
    let pipelines = Pipelines { api: steps(&specs.api), app: steps(&specs.app) };
    match problems.is_empty() {
        true => Ok((pipelines != Pipelines::default()).then_some(pipelines)),
        false => Err(problems),
    }
}

fn step(
    handler: &Handler,
    around: &Around<'_>,
    notes: &mut Vec<String>,
) -> Result<Option<Step>, Problem> {
    let Handler { name, kind, version, place, key } = handler;
    // Of several of one name the last one counts.
    let found = around.components.iter().rev().find(|component| component.name == *name);
    let Some(component) = found.filter(|c| c.kind == *kind && c.version == *version) else {
        notes.push(format!(
            "{place}: {key}: there is no component {name:?} of type {kind}, version {version}; the \
             handler is passed over, as with daprd, until there is"
        ));
        return Ok(None);
    };
    match middleware::step(component, around.stores, around.template) {
        Ok((step, more)) => {
            notes.extend(more);
            Ok(Some(step))
        }
        Err(mut problem) => {
            problem.suggestion = Some(format!("it is needed at {place}: {key}"));
            Err(problem)
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        config::{Config, file::Configuration, flags},
        resources::Resources,
    };
    use snapshot::policy::Step;

    const COMPONENTS: &str = "\
kind: Component
metadata: {name: upper}
spec: {type: middleware.http.uppercase, version: v1}
---
kind: Component
metadata: {name: limit}
scopes: [b]
spec:
  type: middleware.http.ratelimit
  metadata: [{name: maxRequestsPerSecond, value: 5}]
---
kind: Component
metadata: {name: door}
spec: {type: middleware.http.opa, version: v1}
";

    /// The steps of both pipelines, in words, and what is said; or what is wrong.
    fn compiled(app_id: &str, spec: &str) -> Result<(Vec<String>, Vec<String>), Vec<String>> {
        let (mut found, mut problems) = (Resources::default(), Vec::new());
        found.read_text("c.yaml", COMPONENTS, &|_| None, &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        let values = flags::values(&[&format!("--app-id={app_id}")]);
        let mut config = Config::from_flags(&values, &|_| None).unwrap();
        config.take(Configuration::parse("conf.yaml", spec));
        let applied = found.apply(&mut config, Vec::new(), &|_| None);
        applied.map_err(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        let word = |step: &Step| match step {
            Step::Alias(_) => "alias".to_owned(),
            Step::Check(_) => "check".to_owned(),
            Step::RateLimit(limit) => format!("{} per second", limit.per_second),
            Step::Uppercase { .. } => "uppercase".to_owned(),
        };
        let pipelines = config.guards.pipelines.as_deref().cloned().unwrap_or_default();
        let app = pipelines.app.iter().map(|step| format!("app: {}", word(step)));
        Ok((pipelines.api.iter().map(word).chain(app).collect(), config.warnings.clone()))
    }

    fn handler(name: &str, kind: &str) -> String {
        format!("{{name: {name}, type: middleware.http.{kind}}}")
    }

    #[test]
    fn components_in_scope_stand_in_the_order_of_the_handlers() {
        let (upper, limit) = (handler("upper", "uppercase"), handler("limit", "ratelimit"));
        let spec = format!(
            "spec:\n  httpPipeline: {{handlers: [{limit}, {upper}]}}\n  appHttpPipeline: {{handlers: [{limit}]}}\n"
        );
        let (steps, notes) = compiled("b", &spec).unwrap();
        assert_eq!(steps, ["5 per second", "uppercase", "app: 5 per second"]);
        assert_eq!(notes, [""; 0]);
        let (steps, notes) = compiled("a", &spec).unwrap();
        assert_eq!(steps, ["uppercase"]);
        let want = "conf.yaml:2:29: spec.httpPipeline.handlers[0]: there is no component \"limit\" of \
                    type middleware.http.ratelimit, version v1; the handler is passed over";
        assert!(notes[0].starts_with(want), "{notes:?}");
    }

    #[test]
    fn a_component_of_another_type_or_version_is_not_meant() {
        for handler in [
            handler("upper", "ratelimit"),
            handler("upper", "Uppercase"),
            "{name: upper, type: middleware.http.uppercase, version: v2}".to_owned(),
        ] {
            let spec = format!("spec: {{httpPipeline: {{handlers: [{handler}]}}}}\n");
            let (steps, notes) = compiled("a", &spec).unwrap();
            assert_eq!((steps.len(), notes.len()), (0, 1), "{handler}");
        }
    }

    #[test]
    fn a_lock_that_nobody_can_turn_keeps_the_sidecar_from_starting() {
        let door = handler("door", "opa");
        for pipeline in ["httpPipeline", "appHttpPipeline"] {
            let spec = format!("spec: {{{pipeline}: {{handlers: [{door}]}}}}\n");
            let told = compiled("a", &spec).unwrap_err();
            assert!(told[0].starts_with("c.yaml:12:1: Component \"door\": middleware.http.opa"));
            assert!(told[0].contains("it is needed at conf.yaml:1:"), "{told:?}");
            assert!(told[0].contains(&format!("spec.{pipeline}.handlers[0]")), "{told:?}");
        }
        assert!(compiled("a", "spec: {}").is_ok(), "nobody asks for it");
    }
}
