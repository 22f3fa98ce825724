//! The store beside a model that is too simple to be wrong: a map of files for each revision, a list of events, and a search
//! through all of it for each question.

mod loading;
mod model;
mod performance;
mod randomized;
mod semantics;
