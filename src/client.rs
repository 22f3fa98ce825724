//! (design goes here)
