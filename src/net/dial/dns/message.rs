//! One question on the wire, and what its answer means. (RFC 1035 §4, EDNS: RFC 6891)

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use simple_dns::rdata::{OPT, RData};
use simple_dns::{
    CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, ResourceRecord, TYPE,
};

use super::{ALIASES, Record, RecordKind, SrvHost, UDP_BYTES};

/// Records of one answer that are looked at; more are left out.
const RECORDS: usize = 256;

/// Whether a larger message than RFC 1035's is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edns {
    Offered,
    Absent,
}

/// A question.
#[derive(Debug)]
pub(super) struct Query {
    id: u16,
    name: String,
    kind: RecordKind,
    bytes: Vec<u8>,
}

/// What was received after a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// An answer.
    Answer(Meaning),
    /// It is too long for UDP.
    Truncated,
    /// The server cannot read the question.
    Malformed,
    /// The server does not answer, with the name of its code.
    Refusal(String),
    /// No answer to this question.
    Stray,
}

/// What an answer says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Records, at least one, and the least of their times to live.
    Records(Vec<Record>, Duration),
    /// The name stands for another one, of which this answer has no records.
    Alias(String, Duration),
    /// The name has no records of this kind.
    NoData,
    /// There is no such name.
    NoSuchName,
}

impl Query {
    /// `None`: no name of DNS (a label of more than 63 bytes, an empty one, 255 in all).
    pub(super) fn new(id: u16, name: &str, kind: RecordKind, edns: Edns) -> Option<Self> {
        if name.is_empty() || name.split('.').any(str::is_empty) {
            return None;
        }
        let mut packet = Packet::new_query(id);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        packet.questions.push(Question::new(
            Name::new(name).ok()?,
            QTYPE::TYPE(record_type(kind)),
            QCLASS::CLASS(CLASS::IN),
            false,
        ));
        if edns == Edns::Offered {
            *packet.opt_mut() = Some(OPT {
                opt_codes: Vec::new(),
                udp_packet_size: u16::try_from(UDP_BYTES).ok()?,
                version: 0,
            });
        }
        Some(Self {
            id,
            name: name.to_owned(),
            kind,
            bytes: packet.build_bytes_vec().ok()?,
        })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What was received; anything may have been.
    pub(super) fn read(&self, bytes: &[u8]) -> Reply {
        // Nothing of a stranger's packet is read beyond its id.
        if bytes.get(..2) != Some(&self.id.to_be_bytes()) {
            return Reply::Stray;
        }
        let Ok(packet) = Packet::parse(bytes) else {
            return Reply::Stray;
        };
        if !packet.has_flags(PacketFlag::RESPONSE) || !self.is_asked(&packet) {
            return Reply::Stray;
        }
        if packet.has_flags(PacketFlag::TRUNCATION) {
            return Reply::Truncated;
        }
        let code = packet.rcode();
        if code == RCODE::NoError {
            Reply::Answer(self.meaning(&packet.answers))
        } else if code == RCODE::NameError {
            Reply::Answer(Meaning::NoSuchName)
        } else if [RCODE::FormatError, RCODE::NotImplemented, RCODE::BADVERS].contains(&code) {
            Reply::Malformed
        } else {
            Reply::Refusal(format!("{code:?}"))
        }
    }

    /// Whether it answers this question. A server that cannot read it may leave it out.
    fn is_asked(&self, packet: &Packet<'_>) -> bool {
        let Ok(name) = Name::new(&self.name) else {
            return false;
        };
        match packet.questions.as_slice() {
            [] => packet.rcode() == RCODE::FormatError,
            [only] => {
                only.qname == name
                    && only.qtype == QTYPE::TYPE(record_type(self.kind))
                    && only.qclass == QCLASS::CLASS(CLASS::IN)
            }
            _ => false,
        }
    }

    fn meaning(&self, answers: &[ResourceRecord<'_>]) -> Meaning {
        let mut name = self.name.clone();
        let mut least = u32::MAX;
        for _ in 0..=ALIASES {
            let Ok(owner) = Name::new(&name) else {
                return Meaning::NoData;
            };
            let own = answers.iter().take(RECORDS);
            let own = own.filter(|it| it.class == CLASS::IN && it.name == owner);
            let mut records = Vec::new();
            let mut alias = None;
            for answer in own {
                if let Some(record) = record(&answer.rdata, self.kind) {
                    least = least.min(answer.ttl);
                    if !records.contains(&record) {
                        records.push(record);
                    }
                } else if let RData::CNAME(other) = &answer.rdata {
                    alias = Some((other.0.to_string(), answer.ttl));
                }
            }
            if !records.is_empty() {
                return Meaning::Records(records, time(least));
            }
            match alias {
                Some((other, ttl)) => {
                    name = other;
                    least = least.min(ttl);
                }
                None if name == self.name => return Meaning::NoData,
                None => break,
            }
        }
        Meaning::Alias(name, time(least))
    }
}

/// A time to live; one with the highest bit set counts as none (RFC 2181 §8).
fn time(ttl: u32) -> Duration {
    let seconds = if i32::try_from(ttl).is_ok() { ttl } else { 0 };
    Duration::from_secs(seconds.into())
}

const fn record_type(kind: RecordKind) -> TYPE {
    match kind {
        RecordKind::A => TYPE::A,
        RecordKind::Aaaa => TYPE::AAAA,
        RecordKind::Srv => TYPE::SRV,
    }
}

fn record(data: &RData<'_>, kind: RecordKind) -> Option<Record> {
    match (kind, data) {
        (RecordKind::A, RData::A(it)) => {
            let ip = Ipv4Addr::from_bits(it.address);
            Some(Record::Address(IpAddr::V4(ip)))
        }
        (RecordKind::Aaaa, RData::AAAA(it)) => {
            let ip = Ipv6Addr::from_bits(it.address);
            Some(Record::Address(IpAddr::V6(ip)))
        }
        (RecordKind::Srv, RData::SRV(it)) => Some(Record::Host(SrvHost {
            priority: it.priority,
            weight: it.weight,
            port: it.port,
            target: it.target.to_string().to_ascii_lowercase(),
        })),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use simple_dns::rdata::{A, CNAME, SRV};

    use super::*;

    const ID: u16 = 0x1234;

    fn query(kind: RecordKind) -> Query {
        Query::new(ID, "a.test", kind, Edns::Offered).unwrap()
    }

    fn answer(name: &str, ttl: u32, data: RData<'static>) -> ResourceRecord<'static> {
        let name = Name::new(name).unwrap().into_owned();
        ResourceRecord::new(name, CLASS::IN, ttl, data)
    }

    fn a(name: &str, ttl: u32, last: u8) -> ResourceRecord<'static> {
        let address = Ipv4Addr::new(192, 0, 2, last).to_bits();
        answer(name, ttl, RData::A(A { address }))
    }

    fn alias(name: &str, ttl: u32, other: &'static str) -> ResourceRecord<'static> {
        let other = Name::new(other).unwrap();
        answer(name, ttl, RData::CNAME(CNAME(other)))
    }

    fn ip(last: u8) -> Record {
        Record::Address(Ipv4Addr::new(192, 0, 2, last).into())
    }

    /// A reply to a question with these answers.
    fn reply(query: &Query, answers: Vec<ResourceRecord<'static>>) -> Packet<'static> {
        let mut packet = Packet::parse(query.bytes()).unwrap().into_reply();
        packet.answers = answers;
        let bytes = packet.build_bytes_vec_compressed().unwrap();
        Packet::parse(bytes.leak()).unwrap()
    }

    fn read(query: &Query, packet: &Packet<'_>) -> Reply {
        query.read(&packet.build_bytes_vec().unwrap())
    }

    #[test]
    fn answers_mean_what_their_chain_ends_with() {
        let seconds = Duration::from_secs;
        for (answers, meaning) in [
            (
                vec![a("A.test", 60, 1), a("a.test", 30, 2), a("a.test", 60, 1)],
                Meaning::Records(vec![ip(1), ip(2)], seconds(30)),
            ),
            (
                vec![
                    a("c.test", 60, 1),
                    alias("a.test", 20, "b.test"),
                    alias("b.test", 40, "c.test"),
                ],
                Meaning::Records(vec![ip(1)], seconds(20)),
            ),
            (
                vec![alias("a.test", 20, "b.test")],
                Meaning::Alias("b.test".to_owned(), seconds(20)),
            ),
            // What was not asked for is nobody's answer.
            (vec![a("other.test", 60, 1)], Meaning::NoData),
            (vec![], Meaning::NoData),
            (
                vec![a("a.test", u32::MAX, 1)],
                Meaning::Records(vec![ip(1)], seconds(0)),
            ),
        ] {
            let query = query(RecordKind::A);
            let packet = reply(&query, answers);
            assert_eq!(read(&query, &packet), Reply::Answer(meaning));
        }
    }

    #[test]
    fn names_that_lead_in_a_circle_are_no_records() {
        let query = query(RecordKind::A);
        let circle = vec![alias("a.test", 9, "b.test"), alias("b.test", 9, "a.test")];
        let told = read(&query, &reply(&query, circle));
        assert!(
            matches!(told, Reply::Answer(Meaning::Alias(..))),
            "{told:?}"
        );
    }

    #[test]
    fn services_are_read() {
        let query = query(RecordKind::Srv);
        let data = RData::SRV(SRV {
            priority: 1,
            weight: 2,
            port: 3,
            target: Name::new("B.test").unwrap(),
        });
        let told = read(&query, &reply(&query, vec![answer("a.test", 5, data)]));
        let host = SrvHost {
            priority: 1,
            weight: 2,
            port: 3,
            target: "b.test".to_owned(),
        };
        let meaning = Meaning::Records(vec![Record::Host(host)], Duration::from_secs(5));
        assert_eq!(told, Reply::Answer(meaning));
    }

    #[test]
    fn only_an_answer_to_this_question_counts() {
        let query = query(RecordKind::A);
        let right = reply(&query, vec![a("a.test", 60, 1)]);
        assert!(matches!(read(&query, &right), Reply::Answer(_)));
        let mut other = right.clone();
        other.set_id(ID + 1);
        assert_eq!(read(&query, &other), Reply::Stray, "another id");
        let mut other = right.clone();
        other.remove_flags(PacketFlag::RESPONSE);
        assert_eq!(read(&query, &other), Reply::Stray, "a question");
        let mut other = right.clone();
        other.questions[0].qname = Name::new("b.test").unwrap();
        assert_eq!(read(&query, &other), Reply::Stray, "another name");
        let mut other = right;
        other.questions[0].qtype = QTYPE::TYPE(TYPE::AAAA);
        assert_eq!(read(&query, &other), Reply::Stray, "another kind");
    }

    #[test]
    fn codes_say_whether_to_ask_elsewhere() {
        let query = query(RecordKind::A);
        for (code, told) in [
            (RCODE::NameError, Reply::Answer(Meaning::NoSuchName)),
            (RCODE::FormatError, Reply::Malformed),
            (
                RCODE::ServerFailure,
                Reply::Refusal("ServerFailure".to_owned()),
            ),
            (RCODE::Refused, Reply::Refusal("Refused".to_owned())),
        ] {
            let mut packet = reply(&query, vec![]);
            *packet.rcode_mut() = code;
            assert_eq!(read(&query, &packet), told);
        }
        let mut long = reply(&query, vec![]);
        long.set_flags(PacketFlag::TRUNCATION);
        assert_eq!(read(&query, &long), Reply::Truncated);
    }

    #[test]
    fn what_is_no_name_is_not_asked_for() {
        let label = "x".repeat(64);
        let whole = [
            "x".repeat(63),
            "x".repeat(63),
            "x".repeat(63),
            "x".repeat(63),
        ]
        .join(".");
        for name in ["", ".", "a..b", label.as_str(), whole.as_str()] {
            assert!(Query::new(ID, name, RecordKind::A, Edns::Absent).is_none());
        }
        assert!(Query::new(ID, "_http._tcp.a", RecordKind::Srv, Edns::Absent).is_some());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let query = query(RecordKind::A);
            let mut own = ID.to_be_bytes().to_vec();
            own.extend(bytes);
            query.read(&own);
        }

        #[test]
        fn an_answer_with_any_bytes_changed_is_read_to_an_end(
            changes in proptest::collection::vec((0_usize..120, any::<u8>()), 1..8),
            cut in 0_usize..120,
        ) {
            let query = query(RecordKind::A);
            let answers = vec![alias("a.test", 9, "b.test"), a("b.test", 9, 1)];
            let packet = reply(&query, answers);
            let mut bytes = packet.build_bytes_vec_compressed().unwrap();
            for (at, byte) in changes {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
            bytes.truncate(cut.max(12));
            query.read(&bytes);
        }
    }
}
