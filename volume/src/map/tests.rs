//! Maps that are stored, read back piece by piece, changed meanwhile, and dropped from memory.

use super::*;
use torus_blockstore::{BlockIndex, INodeIndex, Seal};

fn volume() -> VolumeId {
    VolumeId::new(1).unwrap()
}

fn map() -> Map {
    Map::new(volume(), BlockSpec::default())
}

fn inode(index: u64) -> INodeRef {
    INodeRef { volume: volume(), inode: INodeIndex(index) }
}

/// A sealed block; the place of its first page.
fn block(map: &mut Map, index: u64) -> Location {
    let block = map.table.add(INodeIndex(1), BlockIndex(index));
    map.table.sealed(block, Seal { length: 1 << 19, crc: 0 });
    Location { block, offset: 8, header: 7 }
}

fn runs(map: &Map, page: u64, count: u32) -> Vec<Run> {
    let mut runs = Vec::new();
    map.lookup(page, count, |run| runs.push(run));
    runs
}

/// What a peer would hold of prepared checkpoints.
#[derive(Default)]
struct Streams(BTreeMap<INodeRef, Vec<u8>>);

impl Streams {
    fn prepare(&mut self, map: &mut Map, index: u64) -> Dead {
        assert!(map.is_settled());
        let prepared = map.prepare(inode(index), Epoch(1), 0);
        self.0.insert(prepared.inode, prepared.stream);
        prepared.dead
    }

    fn object(&self, place: ObjectRef) -> Vec<u8> {
        let start = place.offset as usize;
        let bytes = &self.0[&place.inode][start..start + place.length as usize];
        assert_eq!(crc32fast::hash(bytes), place.crc);
        bytes.to_vec()
    }

    /// The map of the checkpoint with this INode, as an opener gets it.
    fn load(&self, index: u64) -> Map {
        let root = Root::of_stream(&self.0[&inode(index)], inode(index)).unwrap();
        let mut map = Map::stored(volume(), BlockSpec::default(), volume(), &root);
        self.feed(&mut map);
        map
    }

    /// Gives the map everything that it wants; how much that was.
    fn feed(&self, map: &mut Map) -> usize {
        let mut fed = 0;
        loop {
            let wanted = map.take_wanted();
            if wanted.is_empty() {
                return fed;
            }
            for (name, place) in wanted {
                map.arrived(name, &self.object(place)).unwrap();
                fed += 1;
            }
        }
    }
}

#[test]
fn a_run_over_a_leafs_edge_is_found_in_both() {
    let mut map = map();
    let location = block(&mut map, 0);
    map.set(1022, 4, Some(location));
    let at = |offset| Some(Location { offset, ..location });
    assert_eq!(
        runs(&map, 1021, 6),
        [
            Run { page: 1021, count: 1, location: None },
            Run { page: 1022, count: 2, location: at(8) },
            Run { page: 1024, count: 2, location: at(24) },
            Run { page: 1026, count: 1, location: None },
        ]
    );
    assert_eq!(map.table.get(location.block).map(|entry| entry.live), Some(4));
    map.set(0, 1024, None);
    assert_eq!(map.table.get(location.block).map(|entry| entry.live), Some(2));
    assert_eq!(map.mapped_pages(), 2);
}

#[test]
fn a_stored_map_is_read_as_it_is_needed() {
    let (mut map, mut streams) = (map(), Streams::default());
    let location = block(&mut map, 0);
    map.set(5, 1, Some(location));
    map.set(600_000_000, 1, Some(location.advanced(1)));
    streams.prepare(&mut map, 2);
    let mut loaded = streams.load(2);
    assert_eq!(loaded.mapped_pages(), 2);
    assert!(!loaded.ready(5, 1));
    assert_eq!(streams.feed(&mut loaded), 1, "the node");
    assert!(!loaded.ready(5, 1));
    assert_eq!(streams.feed(&mut loaded), 1, "the leaf");
    assert!(loaded.ready(5, 1));
    assert_eq!(runs(&loaded, 5, 1), runs(&map, 5, 1));
    assert!(loaded.ready(1_000_000, 10), "nothing is mapped there, as the root says");
}

#[test]
fn changes_wait_for_their_leaf_and_are_counted_at_once() {
    let (mut map, mut streams) = (map(), Streams::default());
    let first = block(&mut map, 0);
    map.set(0, 10, Some(first));
    streams.prepare(&mut map, 2);
    let mut loaded = streams.load(2);
    let second = block(&mut loaded, 1);
    loaded.set(3, 1, Some(second));
    loaded.set(3, 1, Some(second.advanced(1)));
    loaded.set(8, 100, None);
    assert!(!loaded.is_settled());
    let live = |map: &Map, location: Location| map.table.get(location.block).unwrap().live;
    assert_eq!((live(&loaded, first), live(&loaded, second)), (10, 2));
    streams.feed(&mut loaded);
    assert!(loaded.is_settled());
    assert_eq!((live(&loaded, first), live(&loaded, second)), (7, 1));
    assert_eq!(loaded.mapped_pages(), 8);
    streams.prepare(&mut loaded, 3);
    let mut again = streams.load(3);
    while !again.ready(0, 20) {
        streams.feed(&mut again);
    }
    assert_eq!(runs(&again, 0, 20), runs(&loaded, 0, 20));
}

#[test]
fn zeroing_everything_touches_only_what_is_mapped() {
    let (mut map, mut streams) = (map(), Streams::default());
    let location = block(&mut map, 0);
    map.set(7, 1, Some(location));
    map.set(3_000_000_000, 1, Some(location.advanced(1)));
    streams.prepare(&mut map, 2);
    let mut loaded = streams.load(2);
    loaded.set(0, u32::MAX, None);
    streams.feed(&mut loaded);
    assert_eq!(loaded.mapped_pages(), 0);
    let dead = streams.prepare(&mut loaded, 3);
    assert_eq!(dead.blocks.len(), 1);
    assert_eq!(dead.inodes.iter().map(|(name, _)| *name).collect::<Vec<_>>(), [inode(2)]);
    assert_eq!(streams.load(3).first_mapped(0), Ok(None));
}

#[test]
fn leaves_that_are_stored_are_dropped_when_memory_is_short() {
    let (mut map, mut streams) = (map(), Streams::default());
    let location = block(&mut map, 0);
    for leaf in 0..100 {
        map.set(leaf * LEAF_PAGES, 1, Some(location));
    }
    assert!(!map.evict(0, None), "what is not stored stays");
    streams.prepare(&mut map, 2);
    let before = map.memory();
    assert!(map.evict(1000, None));
    assert!(map.memory() < before);
    while !map.ready(50 * LEAF_PAGES, 1) {
        streams.feed(&mut map);
    }
    assert_eq!(runs(&map, 50 * LEAF_PAGES, 1)[0].location, Some(location));
}

#[test]
fn the_first_mapped_page_is_found() {
    let (mut map, mut streams) = (map(), Streams::default());
    let location = block(&mut map, 0);
    map.set(10, 1, Some(location));
    map.set(5000, 2, Some(location.advanced(1)));
    assert_eq!(map.first_mapped(0), Ok(Some(10)));
    assert_eq!(map.first_mapped(11), Ok(Some(4 * LEAF_PAGES)));
    assert_eq!(map.first_mapped(5001), Ok(Some(5001)));
    assert_eq!(map.first_mapped(5002), Ok(None));
    streams.prepare(&mut map, 2);
    let mut loaded = streams.load(2);
    assert_eq!(loaded.first_mapped(5001), Err(()));
    while loaded.first_mapped(5001).is_err() {
        streams.feed(&mut loaded);
    }
    assert_eq!(loaded.first_mapped(5001), Ok(Some(5001)));
}

#[test]
fn what_is_left_of_old_inodes_is_stored_anew() {
    let (mut map, mut streams) = (map(), Streams::default());
    let location = block(&mut map, 0);
    map.set(0, 1, Some(location));
    map.set(LEAF_PAGES, 1, Some(location.advanced(1)));
    streams.prepare(&mut map, 2);
    map.set(0, 1, Some(location.advanced(2)));
    let dead = streams.prepare(&mut map, 3);
    assert_eq!(dead.inodes, [], "a leaf still stands in it");
    map.want_anew(&BTreeSet::from([inode(2)]));
    let dead = streams.prepare(&mut map, 4);
    assert_eq!(dead.inodes.iter().map(|(name, _)| *name).collect::<Vec<_>>(), [inode(2)]);
}
