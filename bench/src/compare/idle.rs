//! Watches of files that do not change: they must not be woken, and what is measured beside them is what they cost.

use std::time::{Duration, Instant};

use crate::codec::{Event, Operation};
use crate::compare::definition::{At, IDLE_WATCHES_EACH as EACH, Load};
use crate::compare::subject::Subject;
use crate::engine::{Driver, Engine, Place};
use crate::failure::Failure;

/// The watches of a turn.
pub struct Watches {
    engine: Option<Engine>,
    registering: Registering,
}

struct Registering {
    dir: String,
    path: String,
    watching: usize,
}

impl Watches {
    /// Has as many watches as the load says.
    ///
    /// # Errors
    /// The servers do not take them.
    pub fn start(subject: &Subject, load: &Load) -> Result<Watches, Failure> {
        let mut registering = Registering { dir: subject.dir(load), path: String::new(), watching: 0 };
        if load.idle_watches == 0 {
            return Ok(Watches { engine: None, registering });
        }
        let mut engine = subject.connect(At::Spread, load.idle_watches.div_ceil(EACH))?;
        for number in 0..load.idle_watches {
            let (conn, slot) = (number / EACH, u16::try_from(number % EACH).unwrap_or(0));
            engine.ask(&mut registering, Place { conn, slot });
            if usize::from(slot) == EACH - 1 || number + 1 == load.idle_watches {
                engine.flush(conn)?;
            }
        }
        while registering.watching < load.idle_watches {
            engine.patiently(&mut registering)?;
        }
        Ok(Watches { engine: Some(engine), registering })
    }

    /// Ends them.
    ///
    /// # Errors
    /// One was woken.
    pub fn end(self) -> Result<(), Failure> {
        let Watches { engine: Some(mut engine), mut registering } = self else { return Ok(()) };
        while engine.turn(&mut registering, Duration::ZERO)? {}
        engine.close()
    }
}

impl Driver for Registering {
    fn operation(&mut self, place: Place) -> Operation<'_> {
        self.path = format!("{}/idle-{}-{}", self.dir, place.conn, place.slot);
        Operation::Watch { path: self.path.as_bytes() }
    }

    fn event(&mut self, _: usize, event: &Event<'_>, _: Instant, _: &mut Vec<Place>) -> Result<(), Failure> {
        match event {
            Event::Watching { .. } => self.watching += 1,
            other => return Err(Failure::new(format!("an idle watch: {other:?}"))),
        }
        Ok(())
    }
}
