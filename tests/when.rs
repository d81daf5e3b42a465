//! Stages that a param leaves out, and inputs that take the first available source.

use crate::run::project::*;

/// `base` runs unless `given` names a folder. `use` takes the available one.
fn project() -> Project {
    let project = Project::new();
    project.stage("make", "echo made > \"$2/text\"\n");
    project.stage("use", COPY);
    project.write("given/text", "given\n");
    project.write(
        "p.yaml",
        "pipeline: p\n\
         params:\n\
         \x20 given: {type: path, default: null}\n\
         \x20 extra: {type: boolean, default: false}\n\
         stages:\n\
         \x20 base: {uses: make, when: 'not ${params.given}'}\n\
         \x20 more: {uses: make, when: '${params.extra}'}\n\
         \x20 use: {uses: use, with: {from: {first: [['${stages.more.text}', '${stages.base.text}'], ['${stages.base.text}'], ['${params.given}']]}}}\n\
         outputs:\n\
         \x20 text: '${stages.use.text}'\n\
         \x20 base: {first: ['${stages.base.text}', null]}\n",
    );
    project.write("e.yaml", "experiment: e\nuses: p.yaml\n");
    project
}

#[test]
fn a_param_decides_whether_a_stage_is_there_and_its_readers_take_the_first_source_that_is() {
    let project = project();
    let said = project.succeeds(&["plan", "e.yaml"]);
    assert!(said.contains("more  left out  `params.extra` is not set"), "{said}");
    assert!(!said.contains("base  left out"), "{said}");
    project.succeeds(&["run", "e.yaml"]);
    assert!(project.read("out/e/text/text").contains("made"));
    assert_eq!(project.read("out/e/base/text"), "made\n");
    let said = project.succeeds(&["plan", "e.yaml", "--set", "params.given=given"]);
    assert!(said.contains("base  left out  `params.given` is set") && said.contains("1 stages:"), "{said}");
    project.succeeds(&["run", "e.yaml", "--set", "params.given=given"]);
    assert!(project.read("out/e/text/text").contains("given"));
    project.succeeds(&["run", "e.yaml", "--set", "params.extra=true"]);
    assert_eq!(project.read("out/e/text/text").matches("made").count(), 2);
    let json = project.succeeds(&["plan", "e.yaml", "--json"]);
    assert!(json.contains("\"left_out\""), "{json}");
}

#[test]
fn a_reference_to_a_stage_that_is_left_out_is_an_error_with_its_place_unless_there_is_another() {
    let project = project();
    let refused = |changes: &str, arguments: &[&str]| {
        project.write("f.yaml", &format!("experiment: f\nuses: p.yaml\n{changes}"));
        let output = project.run(&[&["validate", "f.yaml"], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        said(&output)
    };
    let text = refused("stages: {use: {with: {from: ['${stages.base.text}']}}}\n", &["--set", "params.given=given"]);
    assert!(
        text.contains("spec::left_out") && text.contains("f.yaml:3:") && text.contains("`params.given` is set"),
        "{text}"
    );
    assert!(text.contains("its condition") && text.contains("p.yaml:6:"), "{text}");
    let text = refused("stages: {use: {with: {from: {first: [['${stages.more.text}']]}}}}\n", &[]);
    assert!(text.contains("spec::none_there") && text.contains("stage `more` is left out"), "{text}");
    let text =
        refused("stages: {use: {with: {from: {first: [['${stages.bse.text}'], ['${stages.base.text}']]}}}}\n", &[]);
    assert!(text.contains("spec::unknown_stage") && text.contains("`base`"), "{text}");
    let text = refused("stages: {base: {when: 'sometimes'}}\n", &[]);
    assert!(text.contains("a condition like"), "{text}");
    let text = refused("stages: {base: {when: '${params.gven}'}}\n", &[]);
    assert!(text.contains("spec::unknown_param") && text.contains("`given`"), "{text}");
    let text = refused("sweep: {grid: {params.extra: [true, false]}}\n", &[]);
    assert!(text.contains("spec::swept_condition") && text.contains("`params.extra`"), "{text}");
}

#[test]
fn a_condition_may_be_changed_by_an_experiment_and_the_command_line() {
    let project = project();
    let said = project.succeeds(&["plan", "e.yaml", "--set", "stages.more.when=true"]);
    assert!(!said.contains("left out"), "{said}");
    let said = project.succeeds(&["plan", "e.yaml", "--set", "stages.more.when=null"]);
    assert!(!said.contains("left out"), "{said}");
    project
        .write("f.yaml", "experiment: f\nuses: p.yaml\nstages: {base: {when: false}, use: {with: {from: [given]}}}\n");
    let said = project.succeeds(&["plan", "f.yaml"]);
    assert!(said.contains("base  left out  `when` is false"), "{said}");
}

/// A project whose experiment uses profile `toy` unless a model is given.
fn with_default_profile(default: &str) -> Project {
    let project = project();
    project.write(
        "f.yaml",
        &format!("experiment: f\nuses: p.yaml\nprofiles: {{toy: {{extra: true}}}}\ndefault_profile: {default}\n"),
    );
    project
}

#[test]
fn a_default_profile_is_used_only_if_its_condition_holds() {
    let project = with_default_profile("{profile: toy, when: 'not ${params.given}'}");
    let said = project.succeeds(&["validate", "f.yaml"]);
    assert!(said.contains("f: 3 stages, profile toy"), "{said}");
    let said = project.succeeds(&["validate", "f.yaml", "--set", "params.given=given"]);
    assert!(said.contains("f: 1 stages: no errors"), "{said}");
    let said = project.succeeds(&["validate", "f.yaml", "--set", "params.given=given", "--profile", "toy"]);
    assert!(said.contains("f: 2 stages, profile toy"), "{said}");
    // The profile sets a param that the condition reads, but the condition is evaluated without the
    // profile.
    let project = with_default_profile("{profile: toy, when: 'not ${params.extra}'}");
    assert!(project.succeeds(&["validate", "f.yaml"]).contains("profile toy"));
}

#[test]
fn a_wrong_condition_of_a_default_profile_is_reported_once_with_its_place() {
    for (default, arguments, code, words) in [
        ("{profile: toy, when: 'not ${params.gven}'}", &[][..], "spec::unknown_param", "`given`"),
        ("{profile: tyo, when: 'not ${params.given}'}", &[], "spec::unknown_profile", "`toy`"),
        ("{profile: toy}", &[], "spec::missing_key", "when"),
        ("{profile: toy, when: maybe}", &[], "spec::bad_value", "a condition like"),
        (
            "{profile: toy, when: 'not ${params.given}'}",
            &["--sweep", "params.given=[a,b]"],
            "spec::swept_condition",
            "params.given",
        ),
    ] {
        let project = with_default_profile(default);
        let output = project.run(&[&["validate", "f.yaml"], arguments].concat());
        let text = said(&output);
        assert_eq!(output.status.code(), Some(2), "{default}: {text}");
        assert!(text.contains(code) && text.contains(words), "{default}: {text}");
    }
    // An invalid value is reported only once, although the params are read twice.
    let project = with_default_profile("{profile: toy, when: 'not ${params.given}'}");
    let output = project.run(&["validate", "f.yaml", "--set", "params.given=${env.NOT_SET_ANYWHERE}"]);
    assert_eq!(said(&output).matches("error[").count(), 1, "{}", said(&output));
}
