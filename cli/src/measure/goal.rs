//! What Memory Shuffler should reach, and whether it did.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::figures::Figures;

/// The figure that a goal is about. All but `Moves` are resident bytes over the floor of the live bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// The highest ratio while the load ran.
    Peak,
    /// The mean of the last third of the load.
    LastThird,
    /// 2 s after the load.
    Settled,
    /// When the compactor has stopped by itself.
    Still,
    /// Moves until then, over those that were needed.
    Moves,
}

/// At most so much.
#[derive(Debug, Clone, Copy)]
pub struct Goal {
    /// Of what.
    pub figure: Figure,
    /// How much.
    pub at_most: f64,
}

/// A goal beside what was measured.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Verdict {
    /// What was measured.
    pub figure: Figure,
    /// The goal.
    pub at_most: f64,
    /// The measurement, where there is one.
    pub measured: Option<f64>,
}

impl Verdict {
    /// Looks the goal's figure up.
    pub fn new(goal: Goal, figures: &Figures) -> Self {
        let defrag = figures.defrag.as_ref();
        let measured = match goal.figure {
            Figure::Peak => figures.peak.over_floor,
            Figure::LastThird => figures.last_third.over_floor,
            Figure::Settled => figures.settled.over_floor,
            Figure::Still => defrag.and_then(|defrag| defrag.still.over_floor),
            Figure::Moves => defrag.and_then(|defrag| defrag.moves_over_needed),
        };
        Self { figure: goal.figure, at_most: goal.at_most, measured }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.figure {
            Figure::Peak => "peak",
            Figure::LastThird => "last third",
            Figure::Settled => "2 s",
            Figure::Still => "still",
            Figure::Moves => "moves",
        };
        let sign = match self.measured {
            Some(measured) if measured <= self.at_most => "met",
            Some(_) => "missed",
            None => "-",
        };
        write!(f, "{what} ≤ {:.2} {sign}", self.at_most)
    }
}
