//! Random changes of an input.

use olmo_base::SplitMix64;

use crate::coverage;

/// Values at which programs often go wrong.
const INTERESTING: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 53,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_ffff,
];
/// Pieces of the languages that are read.
const WORDS: [&str; 40] = [
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"",
    "'",
    "\n",
    "  ",
    "- ",
    "null",
    "true",
    "1e999",
    "-0",
    "\\u0000",
    "\u{202e}",
    "é",
    "${params.",
    "}}",
    "{%",
    "%}",
    "{{",
    "stages: ",
    "params: ",
    "uses: ",
    "with: ",
    "when: ",
    "first: ",
    "sweep: ",
    "grid: ",
    "&a ",
    "*a",
    "<<: ",
    "|",
    ">",
    "---\n",
    "#",
    "F32",
    "shape",
];

/// Mutations from a seed: the same seed gives the same inputs, as long as the program takes the same paths.
pub(crate) struct Mutator(SplitMix64);

impl Mutator {
    pub(crate) fn new(seed: u64) -> Self {
        Self(SplitMix64::new(seed))
    }

    /// A number below `limit`; 0 if that is 0.
    fn below(&mut self, limit: usize) -> usize {
        (self.0.next_u64() % limit.max(1) as u64) as usize
    }

    /// One of `inputs`; half of the time one of the latest.
    pub(crate) fn choose<'i>(&mut self, inputs: &'i [Vec<u8>]) -> &'i [u8] {
        let latest = inputs.len().min(32);
        let at = match self.below(2) {
            0 => inputs.len() - 1 - self.below(latest),
            _ => self.below(inputs.len()),
        };
        &inputs[at]
    }

    /// Changes `input` in one to eight places; `others` lend parts of themselves.
    pub(crate) fn mutate(&mut self, input: &mut Vec<u8>, others: &[Vec<u8>]) {
        for _ in 0..=self.below(8) {
            self.change(input, others);
        }
    }

    fn change(&mut self, input: &mut Vec<u8>, others: &[Vec<u8>]) {
        let length = input.len();
        let at = self.below(length + 1);
        let some = 1 + self.below(16);
        match self.below(12) {
            0 if length > 0 => input[at % length] ^= 1 << self.below(8),
            1 if length > 0 => input[at % length] = self.0.next_u64() as u8,
            2 => input.insert(at, self.0.next_u64() as u8),
            3 => drop(input.drain(at..(at + some).min(length))),
            4 => {
                let part = input[at..(at + some).min(length)].to_vec();
                let to = self.below(length + 1);
                input.splice(to..to, part);
            }
            5 => {
                let other = self.choose(others).to_vec();
                let from = self.below(other.len() + 1);
                let until = (from + 1 + self.below(64)).min(other.len());
                input.splice(at..at, other[from..until].iter().copied());
            }
            6 => {
                let word = WORDS[self.below(WORDS.len())];
                input.splice(at..at, word.bytes());
            }
            7 => {
                let value = INTERESTING[self.below(INTERESTING.len())];
                self.put(input, at, value);
            }
            8 | 9 => {
                let number = self.below(64);
                self.put(input, at, coverage::operand(number));
            }
            // A decimal number becomes another one.
            10 => {
                let digits = |byte: &u8| byte.is_ascii_digit();
                if let Some(start) = input[at.min(length)..].iter().position(digits).map(|start| at + start) {
                    let end = start + input[start..].iter().take_while(|byte| digits(byte)).count();
                    let value = INTERESTING[self.below(INTERESTING.len())].to_string();
                    input.splice(start..end, value.bytes());
                }
            }
            _ => input.truncate(at),
        }
    }

    /// Writes a value over the input, or inserts it: its bytes, or as text.
    fn put(&mut self, input: &mut Vec<u8>, at: usize, value: u64) {
        let width = 1usize << self.below(4);
        let bytes: Vec<u8> = match self.below(3) {
            0 => value.to_string().into_bytes(),
            _ => value.to_le_bytes()[..width].to_vec(),
        };
        match self.below(2) {
            0 => drop(input.splice(at..at, bytes)),
            _ => {
                let end = (at + bytes.len()).min(input.len());
                input.splice(at..end, bytes);
            }
        }
    }
}
