//! The stage: collects the training texts, or checks the given file.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use olmo_data::chat::{ModelTokenizer, Source};
use olmo_data::conversation::strip;
use olmo_data::dataset::{self, Kind};
use olmo_data::tokenizer::tokenizer_json;
use olmo_data::{Chat, ChatError, DataError, Message, Template, TextTokenizer};
use olmo_stage::rules::{Finding, Question};
use olmo_stage::{Context, Stage, StageError};

use crate::params::TokenizerParams;
use crate::rules;
use crate::training::{TrainError, train};

/// Stage `tokenizer`.
pub struct Tokenizer;

impl Stage for Tokenizer {
    type Params = TokenizerParams;
    const CONTRACT: &'static str = include_str!("../stage.yaml");

    fn check(params: &TokenizerParams, question: &Question) -> Vec<Finding> {
        rules::check(params, question)
    }

    fn run(params: TokenizerParams, context: &mut Context) -> Result<(), StageError> {
        let given = context.optional_input("file");
        if let Some(dir) = context.optional_input("model") {
            if given.is_some() {
                return Err(StageError::fail("tokenizer::inputs", "both `file` and `model` are given")
                    .hint("remove `file`: the model's folder has its own tokenizer"));
            }
            return of_model(&params, &dir, context);
        }
        let (path, bytes) = match (given, context.inputs("documents").is_empty()) {
            // Pipelines always bind `documents`; a given file takes precedence.
            (Some(dir), _) => {
                let (path, bytes) = read_given(dir)?;
                let bytes = without_settings(&path, bytes, context);
                (path, bytes)
            }
            (None, false) => (PathBuf::from("tokenizer.json"), train_on_documents(&params, context)?),
            (None, true) => {
                return Err(StageError::fail("tokenizer::inputs", "none of `documents`, `file` and `model` is given")
                    .hint("give `documents` to train a tokenizer, or `file` or `model` to use an existing one"));
            }
        };
        let mut tokenizer = TextTokenizer::from_bytes(&path, &bytes, params.eos(), params.pad())?;
        if let Some(bos) = &params.bos_token {
            tokenizer = tokenizer.with_bos(bos)?;
        }
        let chat = match source(&params, context)? {
            Some(source) => {
                Some(Chat::of_tokenizer(&source, &tokenizer, params.date.as_deref()).map_err(template_failure)?)
            }
            None => None,
        };
        save(&tokenizer, &bytes, chat.as_ref(), context)?;
        let special = tokenizer.special();
        if context.optional_input("file").is_none() && special.vocab_size < params.vocab_size {
            context.warning(format!(
                "the trained vocabulary has {} tokens, fewer than vocab_size {}: no other pair of tokens occurs twice",
                special.vocab_size, params.vocab_size
            ));
        }
        Ok(())
    }
}

/// Uses the tokenizer and the chat template of the model in folder `dir`.
fn of_model(params: &TokenizerParams, dir: &Path, context: &mut Context) -> Result<(), StageError> {
    let model = ModelTokenizer::read(dir).map_err(template_failure)?;
    let own = [
        ("eos_token", &params.eos_token, Some(&model.special.eos)),
        ("pad_token", &params.pad_token, model.special.pad.as_ref()),
        ("bos_token", &params.bos_token, model.special.bos.as_ref()),
    ];
    for (name, given, own) in own {
        if let (Some(given), Some(own)) = (given, own)
            && given != own
        {
            let what = format!(
                "{name}: the model has `{}`, but the params set `{}`",
                own.escape_debug(),
                given.escape_debug()
            );
            return Err(StageError::fail("tokenizer::other_token", what)
                .hint(format!("remove `{name}`: the model's own is used")));
        }
    }
    let source = match (source(params, context)?, &model.source) {
        (Some(given), Some(own)) if given != *own => {
            let given = model.chat(&given, params.date.as_deref()).map_err(template_failure)?;
            let own = model.chat(own, params.date.as_deref()).map_err(template_failure)?;
            let what = format!("the model has {}, but the params set {}", own.record(), given.record());
            return Err(StageError::fail("tokenizer::other_template", what)
                .hint("remove `template` and `chat_template`: the model's own is used"));
        }
        (Some(given), _) => given,
        (None, Some(own)) => own.clone(),
        (None, None) => {
            return Err(StageError::fail("tokenizer::no_template", rules::NO_TEMPLATE).hint(rules::NO_TEMPLATE_HINT));
        }
    };
    let chat = model.chat(&source, params.date.as_deref()).map_err(template_failure)?;
    save(&model.tokenizer, &model.bytes, Some(&chat), context)
}

/// Writes the artifact and reports its properties.
fn save(tokenizer: &TextTokenizer, bytes: &[u8], chat: Option<&Chat>, context: &mut Context) -> Result<(), StageError> {
    let out = context.output("tokenizer")?;
    tokenizer.save(&out, bytes)?;
    if let Some(chat) = chat {
        chat.record().write(&out)?;
        context.message(format!("conversations use {}", chat.record()));
        if chat.misses_bos() {
            context.warning(
                "the chat template writes `bos_token`, but this tokenizer has none, so nothing is written in its place; \
                 set `bos_token` if the model needs one",
            );
        }
    }
    let special = tokenizer.special();
    context.message(format!(
        "{} tokens; eos `{}` is id {}, pad `{}` is id {}",
        special.vocab_size, special.eos_token, special.eos_token_id, special.pad_token, special.pad_token_id
    ));
    Ok(())
}

fn template_failure(error: ChatError) -> StageError {
    StageError::fail("tokenizer::template", error.to_string()).hint(error.hint())
}

/// The chat template that the params or a file select.
fn source(params: &TokenizerParams, context: &Context) -> Result<Option<Source>, StageError> {
    match (params.template, context.optional_input("chat_template")) {
        (Some(_), Some(_)) => {
            let message = "both `template` and `chat_template` are given";
            Err(StageError::fail("tokenizer::params", message).hint("remove one of them"))
        }
        (Some(template), None) => Ok(Some(Source::BuiltIn(template))),
        (None, Some(dir)) => {
            let (path, bytes) = read_given(dir)?;
            let text = String::from_utf8(bytes)
                .map_err(|_| StageError::fail("tokenizer::template", format!("{} is not UTF-8", path.display())))?;
            Ok(Some(Source::Jinja(text)))
        }
        (None, None) => Ok(None),
    }
}

/// The single file in folder `dir`.
fn read_given(dir: PathBuf) -> Result<(PathBuf, Vec<u8>), StageError> {
    let entries = std::fs::read_dir(&dir).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let entries = entries.map_err(|e| StageError::io(&dir, e))?;
    let files: Vec<PathBuf> = entries.into_iter().map(|e| e.path()).filter(|path| path.is_file()).collect();
    let [path] = files.as_slice() else {
        let message = format!("`file` holds {} files, expected one `tokenizer.json`", files.len());
        return Err(StageError::fail("tokenizer::inputs", message));
    };
    let bytes = std::fs::read(path).map_err(|e| StageError::io(path, e))?;
    // Messages show the user's file name, not the path of this attempt's copy.
    Ok((path.file_name().map(PathBuf::from).unwrap_or_default(), bytes))
}

/// Removes truncation, padding and dropout from the given file, and reports what was removed.
fn without_settings(path: &Path, bytes: Vec<u8>, context: &mut Context) -> Vec<u8> {
    let Some(cleaned) = tokenizer_json::clean(&bytes) else { return bytes };
    context.warning(format!(
        "removed from {}: {}; everything else is unchanged",
        path.display(),
        cleaned.removed.join(", ")
    ));
    cleaned.bytes
}

fn train_on_documents(params: &TokenizerParams, context: &mut Context) -> Result<Vec<u8>, StageError> {
    let total: u64 = {
        let mut total = 0;
        for item in context.inputs("documents") {
            total += dataset::manifest(&item.path)?.records;
        }
        total
    };
    context.progress(0, total, "documents", "training");
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(context.request.threads)
        .build()
        .map_err(|e| StageError::fail("tokenizer::threads", e.to_string()))?;
    // The trainer accepts only texts, so an error ends the iterator and is checked afterwards.
    let failure: Mutex<Option<DataError>> = Mutex::new(None);
    let trained = {
        let context = &*context;
        let texts = context
            .inputs("documents")
            .iter()
            .flat_map(|item| match batches(&item.path) {
                Ok(batches) => batches,
                Err(e) => Box::new(std::iter::once(Err(e))),
            })
            .take_while(|_| !context.stop_requested())
            .map_while(|batch| match batch {
                Ok(texts) => Some(texts),
                Err(e) => {
                    *failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(e);
                    None
                }
            })
            .flatten();
        pool.install(|| train(texts, params))
    };
    context.check_stop()?;
    if let Some(e) = failure.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
        return Err(e.into());
    }
    let bytes = trained.map_err(|e| {
        let failed = StageError::fail("tokenizer::training", e.to_string());
        match e {
            TrainError::VocabularyTooSmall { least, .. } => failed.hint(format!("set vocab_size to {least} or more")),
            TrainError::EmptyToken(name) => {
                failed.hint(format!("set `{name}` to a text that does not occur in the data"))
            }
            TrainError::Failed(_) => failed,
        }
    })?;
    context.progress(total, total, "documents", "trained");
    Ok(bytes)
}

type Batches = Box<dyn Iterator<Item = Result<Vec<String>, DataError>> + Send>;

/// The texts of the dataset in folder `dir`. A conversation gives one text per turn, with the
/// template's header in front, so that headers get merges too.
fn batches(dir: &Path) -> Result<Batches, DataError> {
    Ok(match dataset::manifest(dir)?.kind {
        Kind::Text => Box::new(dataset::text_batches(dir)?),
        Kind::Messages => Box::new(dataset::message_batches(dir)?.map(|batch| {
            let turns = batch?.into_iter().flat_map(|conversation| conversation.messages);
            let text = |turn: Message| format!("{}{}\n", Template::Tulu.header(turn.role), strip(turn.text()));
            Ok(turns.map(text).collect())
        })),
    })
}
