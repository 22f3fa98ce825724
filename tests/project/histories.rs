//! The checker of histories is checked itself: for each thing that it watches over, a history that is right, and one that is wrong in
//! just this; and whole histories of servers that do everything at random, and right.

mod listings;
mod nameless;
mod random;
mod reads;
mod tale;
mod waits;
mod writes;
