//! Openings by hand, where the simulator would need luck.

use super::*;
use crate::core::types::{ReplicaId, SECOND};

const MEMBERS: usize = 3;

fn engine(only_after: Option<u64>) -> Engine {
    let member = |i| Member {
        id: ReplicaId(i),
        region: format!("r{i}"),
    };
    let settings = EngineSettings {
        volume: "v".into(),
        size_bytes: 1 << 20,
        class: Class::Replicated,
        members: (1..=MEMBERS as u128).map(member).collect(),
        home: None,
        instance: 7,
        write_through: false,
        only_after,
        mutations: Mutations::default(),
    };
    Engine::new(settings, SECOND, 1)
}

fn hear(engine: &mut Engine, member: usize, message: Message) -> Vec<EngineAction> {
    let mut out = Vec::new();
    let session = member as u64 + 1;
    engine.handle(
        SECOND,
        EngineEvent::Message {
            member,
            session,
            message,
        },
        &mut out,
    );
    out
}

fn welcome(counter: u64) -> Message {
    Message::Welcome {
        id: ReplicaId(1),
        incarnation: 1,
        promised: Epoch {
            counter,
            instance: 1 << 100,
        },
        begun: Epoch::ZERO,
        failed: false,
    }
}

/// The counters that members were asked for, and whether the engine gave up.
fn outcome(only_after: Option<u64>, promised: [u64; MEMBERS]) -> (Vec<u64>, bool) {
    let mut engine = engine(only_after);
    let mut out = Vec::new();
    for member in 0..MEMBERS {
        let session = member as u64 + 1;
        engine.handle(SECOND, EngineEvent::Connected { member, session }, &mut out);
    }
    for (member, counter) in promised.into_iter().enumerate() {
        out.extend(hear(&mut engine, member, welcome(counter)));
    }
    let deposed = out.iter().any(|a| matches!(a, EngineAction::Deposed));
    let asked = out.iter().filter_map(|a| match a {
        EngineAction::Send {
            message: Message::Prepare { epoch },
            ..
        } => Some(epoch.counter),
        _ => None,
    });
    (asked.collect(), deposed)
}

#[test]
fn who_opens_what_nobody_had_gives_way_to_everybody() {
    assert_eq!(
        outcome(None, [4, 4, 6]),
        (vec![5, 5], false),
        "and again above 6 later"
    );
    assert_eq!(outcome(Some(4), [4, 3, 4]), (vec![5, 5, 5], false));
    // Somebody has asked since: nothing is asked, or nothing again.
    assert_eq!(outcome(Some(4), [4, 5, 5]), (vec![], true));
    assert_eq!(outcome(Some(4), [4, 4, 5]), (vec![5, 5], true));
    // At the same counter the other instance is higher.
    let mut engine = engine(Some(4));
    for member in 0..MEMBERS {
        let session = member as u64 + 1;
        engine.handle(
            SECOND,
            EngineEvent::Connected { member, session },
            &mut Vec::new(),
        );
        hear(&mut engine, member, welcome(4));
    }
    let rival = Epoch {
        counter: 5,
        instance: 1 << 100,
    };
    let refused = Message::Refused {
        promised: rival,
        begun: Epoch::ZERO,
    };
    let out = hear(&mut engine, 1, refused);
    assert!(matches!(out[..], [EngineAction::Deposed]), "{out:?}");
}
