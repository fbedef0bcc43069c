//! What was found about one thing.

use crate::json::{Object, Value};

/// What a finding means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// It works, but otherwise than it might.
    Note,
    /// It does not work.
    Problem,
}

#[derive(Debug, Clone)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    pub(crate) text: String,
}

/// One thing: facts for programs, and findings for people.
#[derive(Debug, Clone)]
pub(crate) struct Section {
    /// The name of its object in JSON.
    pub(crate) name: &'static str,
    pub(crate) facts: Object,
    pub(crate) findings: Vec<Finding>,
}

impl Section {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, facts: Object::new(), findings: Vec::new() }
    }

    /// Adds a fact.
    pub(crate) fn fact(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.facts = self.facts.with(name, value);
        self
    }

    pub(crate) fn ok(self, text: impl Into<String>) -> Self {
        self.find(Level::Ok, text)
    }

    pub(crate) fn note(self, text: impl Into<String>) -> Self {
        self.find(Level::Note, text)
    }

    pub(crate) fn problem(self, text: impl Into<String>) -> Self {
        self.find(Level::Problem, text)
    }

    pub(crate) fn find(mut self, level: Level, text: impl Into<String>) -> Self {
        self.findings.push(Finding { level, text: text.into() });
        self
    }

    /// The texts of all problems.
    pub(crate) fn problems(&self) -> impl Iterator<Item = &str> {
        let problems = self.findings.iter().filter(|finding| finding.level == Level::Problem);
        problems.map(|finding| finding.text.as_str())
    }

    /// A line for each finding. Paths may have any characters, and none of them may reach a
    /// terminal as a command.
    pub(crate) fn lines(&self) -> Vec<String> {
        let line = |finding: &Finding| {
            let level = match finding.level {
                Level::Ok => "ok",
                Level::Note => "note",
                Level::Problem => "problem",
            };
            let text = finding.text.replace(char::is_control, "?");
            format!("{:<11} {level:<8} {text}", self.name)
        };
        self.findings.iter().map(line).collect()
    }
}
