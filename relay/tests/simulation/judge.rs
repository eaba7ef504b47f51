//! The verdict on every request: what the client saw and what the applications saw must fit the plan and the rule.

use super::{
    plan::{Ended, Fate, Plan, Record, Served, Serving},
    world::World,
};
use weft_core::route::Rule;

/// What one seed amounted to, for adding up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    pub exchanges: u64,
    pub complete: u64,
    pub reset: u64,
    pub cancelled: u64,
    pub proxied: u64,
    pub served: u64,
    pub retried: u64,
    pub mirrored: u64,
    pub steps: u64,
}
impl Sum {
    pub fn add(&mut self, o: Sum) {
        self.exchanges += o.exchanges;
        self.complete += o.complete;
        self.reset += o.reset;
        self.cancelled += o.cancelled;
        self.proxied += o.proxied;
        self.served += o.served;
        self.retried += o.retried;
        self.mirrored += o.mirrored;
        self.steps += o.steps;
    }
}

pub fn judge(world: &World, rules: &[Rule]) -> Sum {
    let mut sum = Sum { steps: world.steps, ..Sum::default() };
    for (id, (plan, record)) in world.plans.iter().zip(&world.book).enumerate() {
        let case = Case { world, rule: rules.get(plan.rule), plan, record, id };
        sum.exchanges += 1;
        sum.served += record.served.len() as u64;
        sum.retried += record.served.len().saturating_sub(1) as u64;
        sum.mirrored += u64::from(record.mirrored);
        let Some(ended) = record.ended else { case.fail("never ended") };
        match ended {
            Ended::Complete => {
                sum.complete += 1;
                sum.proxied += u64::from(case.complete());
            }
            Ended::Reset => sum.reset += 1,
            Ended::Cancelled => sum.cancelled += 1,
        }
        if world.mood.calm() {
            if ended != Ended::Complete {
                case.fail("did not complete although nothing went wrong");
            }
            match &record.head {
                Some((_, Some(attempt), _)) if *attempt as usize + 1 == record.served.len() => {}
                Some((_, Some(_), _)) => case.fail("the answer is not that of the last attempt"),
                // a scene without faults still has listed codes to retry
                Some((503, None, Some(cause))) if cause.contains("retry budget") => {}
                _ => case.fail("was answered by the proxy although nothing went wrong"),
            }
        }
        let Some(rule) = case.rule else { continue };
        case.retries(rule);
        // an inbound proxy may ask its application again when that has refused, or closed an old connection
        let again = matches!(plan.script(0).fate, Fate::Refuse | Fate::LostBeforeHead | Fate::LostInBody)
            || world.mood.breaks > 0;
        let mirrors = rule.filters.mirrors.len() * if again { 3 } else { 1 };
        if record.mirrored as usize > mirrors {
            case.fail("mirrored more often than the rule says");
        }
    }
    sum
}

/// A request with all that is known of it.
struct Case<'a> {
    world: &'a World,
    rule: Option<&'a Rule>,
    plan: &'a Plan,
    record: &'a Record,
    id: usize,
}
impl Case<'_> {
    fn fail(&self, what: &str) -> ! {
        let Case { world, rule, plan, record, id } = self;
        panic!("seed {}: request {id}: {what}\n{rule:#?}\n{plan:#?}\n{record:#?}", world.seed)
    }

    /// A complete response is one that an application gave for this very attempt, or the proxy's own with its cause. True: the proxy's.
    fn complete(&self) -> bool {
        let (plan, record) = (self.plan, self.record);
        let jumps = self.world.mood.jumps;
        let Some((status, attempt, cause)) = &record.head else { self.fail("completed without a head") };
        let Some(attempt) = attempt else {
            // a clock that jumps makes a head late that is on its way
            if cause.is_none() || !(matches!(status, 500 | 502 | 503 | 504) || *status == 408 && jumps) {
                self.fail("an answer of the proxy without cause, or with a strange status");
            }
            return true;
        };
        let script = plan.script(*attempt as usize);
        let Some(served) = record.served.get(*attempt as usize) else {
            self.fail("answered by an attempt that never was")
        };
        let bodyless = plan.method == "HEAD" || matches!(script.status, 204 | 304);
        let length = if bodyless { 0 } else { script.length };
        if *status != script.status || served.status != script.status {
            self.fail("another status than the application's");
        }
        if record.got != length {
            self.fail("a body of another length, and complete");
        }
        let spoilt = match script.fate {
            // a length of 0 said all
            Fate::LostInBody => !bodyless && (length > 0 || !script.declared),
            Fate::StallInBody => length > 0,
            Fate::LostBeforeHead | Fate::Stall => true,
            // HTTP/1 cannot refuse
            Fate::Refuse | Fate::Complete | Fate::CompleteAndLeave => false,
        };
        if spoilt {
            self.fail("complete although the application never completed it");
        }
        false
    }

    /// Each attempt that was followed by another one must have been one that may be.
    fn retries(&self, rule: &Rule) {
        let (world, plan, record) = (self.world, self.plan, self.record);
        let policy = rule.retry.as_ref();
        let mut counted = 0;
        for pair in record.served.windows(2) {
            let served: &Served = &pair[0];
            let script_wanted_it = policy.is_some_and(|p| p.attempts > 0 && p.codes.contains(&served.status));
            // without a policy too, and with `attempts: 0` by the inbound proxy, which knows nothing of the rule
            let unprocessed = served.state == Serving::Refused;
            // what the application sent may have been lost on the way when connections break
            let lost =
                matches!(served.state, Serving::LostBeforeHead | Serving::LostInBody | Serving::CancelledBeforeHead)
                    || world.mood.breaks > 0;
            let closed = plan.idempotent() && lost && (served.reused || policy.is_some_and(|p| p.attempts > 0));
            let late = rule.timeouts.backend_request.is_some() && policy.is_some_and(|p| p.attempts > 0);
            if !(script_wanted_it || unprocessed || closed || late) {
                self.fail(&format!("tried again after an attempt that may not be: {served:?}"));
            }
            let reopened = served.reused && plan.idempotent();
            if !unprocessed && !reopened {
                counted += 1;
            }
            // what was cancelled after a while may still have been on its way
            let timed = rule.timeouts.backend_request.is_some() || rule.timeouts.request.is_some();
            let late = pair[1].at > record.head_at && !timed && world.mood.breaks == 0;
            if record.head_at > 0 && late {
                self.fail("tried again after the client had a response head");
            }
        }
        if let Some(p) = policy
            && counted > p.attempts
        {
            self.fail("tried more often than the policy allows");
        }
    }
}
