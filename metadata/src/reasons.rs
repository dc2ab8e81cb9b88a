//! Why a command is not valid: every pair of words that [`Refusal::Invalid`] carries, with the
//! number that stands for it on the wire. A number is never given to another reason.

use crate::Refusal;

macro_rules! reasons {
    ($($number:literal $name:ident $what:literal $why:literal)*) => {
        impl Refusal {
            $(pub(crate) const $name: Self = Self::Invalid { what: $what, why: $why };)*

            /// What `number` stands for; a later version may know more.
            pub(crate) fn from_reason(number: u32) -> Self {
                match number {
                    $($number => Self::$name,)*
                    _ => Self::UNKNOWN_REASON,
                }
            }
        }

        /// The number of a pair of words.
        pub(crate) fn number(what: &str, why: &str) -> u32 {
            match (what, why) {
                $(($what, $why) => $number,)*
                _ => 0,
            }
        }
    };
}

reasons! {
    0 UNKNOWN_REASON "the command" "the service gives a reason that this version does not know"
    1 NAME_LENGTH "the volume name" "it must have 1 to 255 characters"
    2 NAME_START "the volume name" "it must not start with '-' or '.'"
    3 NAME_CHARACTER "the volume name" "only A-Z, a-z, 0-9, '.', '_' and '-' may stand in it"
    4 SIZE_ZERO "the size" "it must be more than 0"
    5 SIZE_LIMIT "the size" "a volume has at most 256 TiB"
    6 BLOCK_SIZE "the block size" "it must be a power of two from 64 KiB to 32 MiB"
    7 REPLICATION "the replication" "it must be from 1 to 16"
    8 RING_TWICE "the ring" "a peer stands twice in it"
    9 RING_WEIGHT "the ring" "a member's weight is 0"
    10 RING_EMPTY "the ring" "one of kind empty has no members"
    11 RING_SINGLE "the ring" "one of kind single has exactly one member"
    12 PEER_ADDRESS "the peer's address" "it must have 1 to 255 characters"
    13 PEER_ZONE "the peer's zone" "it must not have more than 255 characters"
    14 SESSION_OWNER "the session's owner" "it must have 1 to 255 characters"
    15 SESSION_TTL "the session's time" "it must be from 100 ms to one hour"
    16 INODE_COUNT "the number of INode indexes" "it must be from 1 to 65536"
    17 INODE_RESERVED "the INode index" "it was not reserved"
    18 WINDOW_COUNT "the window" "it must have 1 to 65536 blocks"
    19 WINDOW_LIMIT "the window" "the volume has too many; a checkpoint must come first"
    20 HEAD_EMPTY "the head" "a checkpoint has at least one block"
    21 VOLUMES_EXHAUSTED "the volume" "every volume ID has been given"
    22 NOT_FOR_CLIENTS "the command" "only the leader gives it"
    23 TOO_LARGE "the command" "it is larger than an entry of the log may be"
    24 HEAD_FOREIGN "the head" "the checkpoint is another volume's"
    25 SNAPSHOT_NAME_LENGTH "the snapshot name" "it must have 1 to 255 characters"
    26 SNAPSHOT_NAME_START "the snapshot name" "it must not start with '-' or '.'"
    27 SNAPSHOT_NAME_CHARACTER "the snapshot name" "only A-Z, a-z, 0-9, '.', '_' and '-' may stand in it"
    28 SNAPSHOT_LIMIT "the snapshot" "a volume has at most 1024"
    29 ASK_GROUP_SIZE "the group" "it must have 1 to 64 volumes"
    30 ASK_GROUP_TWICE "the group" "a volume stands twice in it"
    31 ASK_GROUP_TASK "the group" "several volumes at once can only be asked for snapshots"
    32 ASK_LIMIT "the request" "16 others wait for the volume's writer already"
    33 FLATTEN_HEAD "the flattening" "the volume has made no checkpoint of its own yet"
    60 VOTERS_MAX "the number of voters" "it must be 1, 3, 5, 7 or 9"
}
