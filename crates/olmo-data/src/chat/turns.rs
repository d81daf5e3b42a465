//! Finds the turns of a conversation in the text that a template rendered.

use std::ops::Range;

use super::error::ChatError;
use super::jinja_template::JinjaTemplate;
use super::probe::Probe;
use crate::conversation::{Labels, Message, Rendered, Role, Turn, strip};
use crate::jinja::{Piece, Rendering};

/// The bytes of the text from the first to the last byte supplied by a message.
#[derive(Clone, Debug)]
struct Region {
    range: Range<usize>,
    /// Number of bytes that the message supplied.
    supplied: usize,
    /// Whether another message's bytes are in between.
    split: bool,
    /// End of the previous message's bytes in the text, and start of the next one's.
    around: Range<usize>,
}

/// The regions of `count` messages; `None` for a message that is not in the text.
fn regions(pieces: &[Piece], count: usize, length: usize) -> Vec<Option<Region>> {
    let mut regions: Vec<Option<Region>> = vec![None; count];
    let mut last: Option<usize> = None;
    let mut end = 0;
    for piece in pieces {
        if let Some(last) = last.filter(|last| *last != piece.turn)
            && let Some(region) = &mut regions[last]
        {
            region.around.end = piece.range.start;
        }
        match &mut regions[piece.turn] {
            Some(region) => {
                region.split |= last != Some(piece.turn);
                region.range.end = piece.range.end;
                region.around.end = length;
                region.supplied += piece.range.len();
            }
            none => {
                let supplied = piece.range.len();
                *none = Some(Region { range: piece.range.clone(), supplied, split: false, around: end..length });
            }
        }
        last = Some(piece.turn);
        end = piece.range.end;
    }
    regions
}

/// `rendering` with the turns of `messages`, and the parts selected by `labels` marked as trained.
pub(super) fn label(
    rendering: Rendering,
    messages: &[Message],
    labels: &Labels,
    probe: &Probe,
    stops: &[&str],
    template: &JinjaTemplate,
) -> Result<Rendered, ChatError> {
    let Rendering { text, pieces, generations } = rendering;
    let regions = regions(&pieces, messages.len(), text.len());
    let mut turns = Vec::new();
    for (i, (message, region)) in messages.iter().zip(&regions).enumerate() {
        let Some(region) = region else { continue };
        let trained = message.trained.unwrap_or(labels.roles.contains(&message.role));
        if trained && !template.has_generation_tags() {
            check(message, region, &text).map_err(|reason| ChatError::Turn {
                turn: i + 1,
                role: message.role,
                reason,
            })?;
        }
        if region.split {
            continue;
        }
        let before = &text[region.around.start..region.range.start];
        let body = region.around.start + begins(before, message.role, probe)..region.range.end;
        let after = &text[body.end..region.around.end];
        let end = stops.iter().filter_map(|stop| Some(after.find(stop)? + stop.len())).min().unwrap_or(0);
        let shortened = region.supplied < strip(message.text()).len();
        let end = body.end..body.end + end;
        turns.push(Turn { role: message.role, trained: message.trained, end, body, shortened });
    }
    // A template may write the turns in another order.
    turns.sort_by_key(|turn| turn.body.start);
    if !template.has_generation_tags() {
        return Ok(Rendered::new(text, turns, labels));
    }
    let said = |range: &Range<usize>| {
        let inside = |region: &&Option<Region>| {
            region.as_ref().is_some_and(|region| range.start <= region.range.start && region.range.end <= range.end)
        };
        regions.iter().position(|region| inside(&region)).map(|turn| &messages[turn])
    };
    let mut labelled: Vec<Range<usize>> = generations
        .into_iter()
        .filter(|range| said(range).is_none_or(|message| message.trained != Some(false)))
        .collect();
    if labels.last_turn_only {
        labelled = labelled.pop().into_iter().collect();
    }
    if !labels.end_of_turn {
        for range in &mut labelled {
            let last = pieces.iter().rev().find(|piece| piece.range.start < range.end && range.start < piece.range.end);
            range.end = last.map_or(range.end, |piece| piece.range.end.min(range.end));
        }
    }
    labelled.retain(|range| !range.is_empty());
    Ok(Rendered { text, turns, labelled, endless: 0, shortened: 0 })
}

/// Rejects a trained turn that does not appear in the text as one unit.
fn check(message: &Message, region: &Region, text: &str) -> Result<(), &'static str> {
    if region.split {
        return Err("the template writes parts of it in several places, so the trained text cannot be determined");
    }
    let content = strip(message.text());
    let twice = !content.is_empty()
        && region.supplied >= 2 * content.len()
        && text[region.range.clone()].matches(content).count() > message.text().matches(content).count();
    if twice && message.fields.is_empty() {
        return Err("the template writes it more than once, so the trained text cannot be determined");
    }
    Ok(())
}

/// Start of the model's output in `before`, the template's own text before a turn. A tag before a
/// tool call comes after the generation prompt, so the model writes it; whitespace there is not
/// trained.
fn begins(before: &str, role: Role, probe: &Probe) -> usize {
    let asked = match before.rfind(&probe.generation_prompt) {
        _ if role != Role::Assistant => before.len(),
        Some(at) if !probe.generation_prompt.is_empty() => at + probe.generation_prompt.len(),
        _ => match before.strip_prefix(probe.before_answer.as_str()) {
            Some(rest) if !probe.before_answer.is_empty() => before.len() - rest.len(),
            _ => before.len(),
        },
    };
    if strip(&before[asked..]).is_empty() { before.len() } else { asked }
}
