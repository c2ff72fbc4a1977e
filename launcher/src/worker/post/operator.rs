//! What the plugin tells the operator, on its way to the master.
//!
//! Only so many messages are there without an answer; the others wait here, and their senders with them. The master answers
//! when a message is an event, and no faster than it wants to hear: that is all that bounds the rate.
//!
//! A message is kept until it is answered. Another master is told again what the one before did not answer; the numbers say
//! what is the same.

use std::collections::VecDeque;

use super::receipt::Letter;
use crate::channel::ToMaster;
use crate::channel::post::OPERATOR_WINDOW;

#[derive(Debug, Default)]
pub(super) struct Operator {
    waiting: VecDeque<Letter>,
    /// Told and not answered.
    flying: VecDeque<Letter>,
    /// Number of the first of `flying`.
    base: u64,
}

impl Operator {
    /// Send a letter, now or when it is its turn: what is to be told.
    pub(super) fn send(&mut self, letter: Letter) -> Vec<ToMaster> {
        self.waiting.push_back(letter);
        self.fill()
    }

    /// Everything below this number is an event: whose letters those are, and what is to be told next.
    pub(super) fn heard(&mut self, until: u64) -> (Vec<Letter>, Vec<ToMaster>) {
        let count = usize::try_from(until.saturating_sub(self.base)).unwrap_or(usize::MAX).min(self.flying.len());
        self.base += count as u64;
        (self.flying.drain(..count).collect(), self.fill())
    }

    /// What was told and not answered.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = ToMaster> {
        (self.base..).zip(&self.flying).map(|(number, letter)| word(number, letter))
    }

    fn fill(&mut self) -> Vec<ToMaster> {
        let mut words = Vec::new();
        while self.flying.len() < OPERATOR_WINDOW
            && let Some(letter) = self.waiting.pop_front()
        {
            words.push(word(self.base + self.flying.len() as u64, &letter));
            self.flying.push_back(letter);
        }
        words
    }
}

fn word(number: u64, letter: &Letter) -> ToMaster {
    // It was read as JSON, so it is UTF-8.
    ToMaster::Message { number, message: String::from_utf8_lossy(&letter.payload).into_owned() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};

    use super::super::receipt::{Kind, Outcome, Receipt};
    use super::*;

    fn numbers(words: &[ToMaster]) -> Vec<u64> {
        let number = |word: &ToMaster| match word {
            ToMaster::Message { number, .. } => *number,
            other => unreachable!("{other:?}"),
        };
        words.iter().map(number).collect()
    }

    #[test]
    fn so_many_are_on_their_way_and_the_rest_waits_for_answers() {
        let window = OPERATOR_WINDOW as u64;
        let mut operator = Operator::default();
        let receipt = Receipt::new(1);
        let letter =
            |receipt: &Arc<Receipt>| Letter::new(Kind::Message, b"1".to_vec(), Vec::new(), Arc::clone(receipt));
        let mut told = operator.send(letter(&receipt));
        for _ in 1..window + 5 {
            told.extend(operator.send(letter(&Receipt::new(1))));
        }
        assert_eq!(numbers(&told), (0..window).collect::<Vec<_>>());
        let (heard, next) = operator.heard(3);
        assert_eq!((heard.len(), numbers(&next)), (3, vec![window, window + 1, window + 2]));
        drop(heard);
        assert_eq!(receipt.poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Outcome::Gone), "it was dropped");
        // What is answered twice, or was never told, is nothing.
        assert_eq!(operator.heard(3).0.len(), 0);
        assert_eq!(numbers(&operator.unanswered().collect::<Vec<_>>()), (3..window + 3).collect::<Vec<_>>());
        let (all, last) = operator.heard(u64::MAX);
        assert_eq!((all.len(), numbers(&last)), (OPERATOR_WINDOW, vec![window + 3, window + 4]));
    }
}
