//! Walking structures that years of use have scattered: a list and a binary search tree of a million nodes of 64 bytes, beside the
//! same structures over the system's malloc, in one run.
//!
//! `cargo bench --bench traversal`; `-- --quick` for a tenth of the nodes. Both are churned alike: twice as often as there are nodes a
//! random one is taken out and a new one put in at a random place. Then each is walked from end to end, the tree in the order of its
//! keys, and every node is read whole: on malloc, over a shuffler as it is, and over one after `shuffle_along`, with `get` and with `get_after`.
//! Rounds are interleaved; medians and minima over the rounds, nanoseconds a node; ratios are to malloc.

#[path = "common/rounds.rs"]
mod rounds;

use memory_shuffler::{Frozen, Reader, Shuffler, Versioned};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rounds::{Contestant, timed};
use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;

/// Of a list, `left` is the node before and `right` the next one.
#[derive(Clone, Copy)]
struct Node<L> {
    key: u64,
    left: Option<L>,
    right: Option<L>,
    payload: [u64; 5],
}

// SAFETY: numbers and handles, which do not change by themselves.
unsafe impl<L: Frozen> Frozen for Node<L> {}

impl<L> Node<L> {
    fn new(key: u64) -> Self {
        Self { key, left: None, right: None, payload: [key; 5] }
    }
}

/// Where nodes live.
trait Heap {
    type Link: Copy + PartialEq;
    type View<'h>: View<Self::Link>
    where
        Self: 'h;

    fn make(&self, node: Node<Self::Link>) -> Self::Link;
    fn edit(&self, link: Self::Link, change: impl Fn(&mut Node<Self::Link>));
    fn end(&self, link: Self::Link);
    fn view(&self) -> Self::View<'_>;
}

/// A way to read them.
trait View<L> {
    fn node(&self, link: L) -> &Node<L>;

    /// For one that was put behind `before` in memory, if nodes were put in order.
    #[inline]
    fn node_after(&self, _before: &Node<L>, link: L) -> &Node<L> {
        self.node(link)
    }
}

struct Malloc;

#[derive(Clone, Copy, PartialEq)]
struct Pointer(*mut Node<Pointer>);

impl Heap for Malloc {
    type Link = Pointer;
    type View<'h> = Malloc;

    fn make(&self, node: Node<Pointer>) -> Pointer {
        // SAFETY: the layout is not empty; the block has room for one node.
        unsafe {
            let block = System.alloc(Layout::new::<Node<Pointer>>()).cast::<Node<Pointer>>();
            assert!(!block.is_null());
            block.write(node);
            Pointer(block)
        }
    }

    fn edit(&self, link: Pointer, change: impl Fn(&mut Node<Pointer>)) {
        // SAFETY: the structures end a node only after its last link is gone, and use one at a time.
        change(unsafe { &mut *link.0 });
    }

    fn end(&self, link: Pointer) {
        // SAFETY: made above with this layout, and no link to it is left.
        unsafe { System.dealloc(link.0.cast(), Layout::new::<Node<Pointer>>()) };
    }

    fn view(&self) -> Malloc {
        Malloc
    }
}

impl View<Pointer> for Malloc {
    #[inline]
    fn node(&self, link: Pointer) -> &Node<Pointer> {
        // SAFETY: as in `edit`.
        unsafe { &*link.0 }
    }
}

#[derive(Clone, Copy, PartialEq)]
struct Block(Versioned<Node<Block>>);

// SAFETY: a handle, which does not change by itself.
unsafe impl Frozen for Block {}

impl Heap for Shuffler {
    type Link = Block;
    type View<'h> = Reader<'h>;

    fn make(&self, node: Node<Block>) -> Block {
        Block(self.create_versioned(node).expect("memory"))
    }

    fn edit(&self, link: Block, change: impl Fn(&mut Node<Block>)) {
        let changed = self.update(link.0, |node| {
            let mut node = *node;
            change(&mut node);
            node
        });
        changed.expect("a live block");
    }

    fn end(&self, link: Block) {
        let _ = self.free(link.0).expect("a live block");
    }

    fn view(&self) -> Reader<'_> {
        self.reader()
    }
}

impl View<Block> for Reader<'_> {
    #[inline]
    fn node(&self, link: Block) -> &Node<Block> {
        self.get(link.0).expect("a live block")
    }

    #[inline]
    fn node_after(&self, before: &Node<Block>, link: Block) -> &Node<Block> {
        self.get_after(before, link.0).expect("a live block")
    }
}

/// A structure of nodes.
trait Structure<H: Heap> {
    fn heap(&self) -> &H;
    /// Takes a random node out and puts a new one in at a random place, so many times.
    fn churn(&mut self, times: usize);
    /// Visits every node, each when it is come to first. `GUESS`: nodes were put in this order.
    fn walk<const GUESS: bool>(&self, visit: impl FnMut(H::Link, &Node<H::Link>));

    fn links(&self) -> Vec<H::Link> {
        let mut links = Vec::new();
        self.walk::<false>(|link, _| links.push(link));
        links
    }

    fn keys(&self) -> Vec<u64> {
        let mut keys = Vec::new();
        self.walk::<false>(|_, node| keys.push(node.key));
        keys
    }
}

/// A list that is linked both ways. Its first node stays.
struct List<H: Heap> {
    heap: H,
    nodes: Vec<H::Link>,
}

impl<H: Heap> List<H> {
    fn new(heap: H, n: usize) -> Self {
        let first = heap.make(Node::new(0));
        let mut list = Self { heap, nodes: vec![first] };
        for key in 1..n as u64 {
            let link = list.insert(list.nodes[list.nodes.len() - 1], key);
            list.nodes.push(link);
        }
        list
    }

    fn insert(&self, before: H::Link, key: u64) -> H::Link {
        let after = self.heap.view().node(before).right;
        let link = self.heap.make(Node { left: Some(before), right: after, ..Node::new(key) });
        self.heap.edit(before, |node| node.right = Some(link));
        if let Some(after) = after {
            self.heap.edit(after, |node| node.left = Some(link));
        }
        link
    }
}

impl<H: Heap> Structure<H> for List<H> {
    fn heap(&self) -> &H {
        &self.heap
    }

    fn churn(&mut self, times: usize) {
        let mut random = SmallRng::seed_from_u64(SEED);
        for _ in 0..times {
            let place = random.random_range(1..self.nodes.len());
            let gone = self.nodes[place];
            let Node { key, left, right, .. } = *self.heap.view().node(gone);
            self.heap.edit(left.expect("it is not the first"), |node| node.right = right);
            if let Some(right) = right {
                self.heap.edit(right, |node| node.left = left);
            }
            self.heap.end(gone);
            let before = (place + random.random_range(1..self.nodes.len())) % self.nodes.len();
            self.nodes[place] = self.insert(self.nodes[before], key);
        }
    }

    fn walk<const GUESS: bool>(&self, mut visit: impl FnMut(H::Link, &Node<H::Link>)) {
        let view = self.heap.view();
        let first = self.nodes[0];
        let mut node = view.node(first);
        visit(first, node);
        while let Some(link) = node.right {
            node = if GUESS { view.node_after(node, link) } else { view.node(link) };
            visit(link, node);
        }
    }
}

/// A binary search tree with random keys, so that it is hardly deeper than one that is balanced.
struct Tree<H: Heap> {
    heap: H,
    root: H::Link,
    keys: Vec<u64>,
    random: SmallRng,
}

impl<H: Heap> Tree<H> {
    fn new(heap: H, n: usize) -> Self {
        let mut random = SmallRng::seed_from_u64(SEED);
        // Below all others, so that it stays.
        let root = heap.make(Node::new(0));
        let keys = (1..n).map(|_| random.random_range(1..u64::MAX)).collect();
        let tree = Self { heap, root, keys, random };
        for place in 0..tree.keys.len() {
            tree.insert(tree.keys[place]);
        }
        tree
    }

    /// Where a key is, or would be: the node above, on which side of it, and the node if there is one.
    fn find(&self, key: u64) -> (H::Link, bool, Option<H::Link>) {
        let view = self.heap.view();
        let (mut above, mut is_right, mut next) = (self.root, true, view.node(self.root).right);
        while let Some(link) = next {
            let node = view.node(link);
            if node.key == key {
                break;
            }
            (above, is_right) = (link, node.key < key);
            next = if is_right { node.right } else { node.left };
        }
        (above, is_right, next)
    }

    fn link(&self, above: H::Link, is_right: bool, below: Option<H::Link>) {
        self.heap.edit(above, |node| *(if is_right { &mut node.right } else { &mut node.left }) = below);
    }

    fn insert(&self, key: u64) {
        let (above, is_right, found) = self.find(key);
        if found.is_none() {
            self.link(above, is_right, Some(self.heap.make(Node::new(key))));
        }
    }

    fn remove(&self, key: u64) {
        let (above, is_right, found) = self.find(key);
        let Some(gone) = found else { return };
        let Node { left, right, .. } = *self.heap.view().node(gone);
        match (left, right) {
            (Some(_), Some(right)) => {
                // The next key takes its place.
                let (mut from, mut next) = (gone, right);
                while let Some(lower) = self.heap.view().node(next).left {
                    (from, next) = (next, lower);
                }
                let Node { key, payload, right: rest, .. } = *self.heap.view().node(next);
                self.link(from, from == gone, rest);
                self.heap.edit(gone, |node| (node.key, node.payload) = (key, payload));
                self.heap.end(next);
            }
            (one, other) => {
                self.link(above, is_right, one.or(other));
                self.heap.end(gone);
            }
        }
    }
}

impl<H: Heap> Structure<H> for Tree<H> {
    fn heap(&self) -> &H {
        &self.heap
    }

    fn churn(&mut self, times: usize) {
        for _ in 0..times {
            let place = self.random.random_range(0..self.keys.len());
            self.remove(self.keys[place]);
            self.keys[place] = self.random.random_range(1..u64::MAX);
            self.insert(self.keys[place]);
        }
    }

    fn walk<const GUESS: bool>(&self, mut visit: impl FnMut(H::Link, &Node<H::Link>)) {
        let view = self.heap.view();
        // Nodes are come to from above, so that is the order in which memory should be gone through.
        let mut last = view.node(self.root);
        let mut above = Vec::with_capacity(256);
        visit(self.root, last);
        let mut next = last.right;
        loop {
            while let Some(link) = next {
                last = if GUESS { view.node_after(last, link) } else { view.node(link) };
                visit(link, last);
                above.push(last);
                next = last.left;
            }
            let Some(node) = above.pop() else { return };
            next = node.right;
        }
    }
}

const SEED: u64 = 0x5EED;
const MALLOC: &str = "malloc";
/// How many times as fast as malloc a walk along the order should be.
const GOAL: f64 = 3.0;

fn walk<'a, H: Heap, const GUESS: bool>(
    name: &'static str,
    structure: &'a impl Structure<H>,
    n: usize,
) -> Contestant<'a> {
    let run = move |_| {
        let mut sum = 0_u64;
        let passed = timed(|| {
            structure.walk::<GUESS>(|_, node| sum = node.payload.iter().fold(sum, |sum, part| sum.wrapping_add(*part)))
        });
        black_box(sum);
        passed
    };
    Contestant::new(name, MALLOC, n, run)
}

/// Churns three of a kind alike, puts one in order, and walks them.
fn race(
    kind: &str,
    n: usize,
    rounds: usize,
    mut malloc: impl Structure<Malloc>,
    [mut aged, mut lined_up]: [impl Structure<Shuffler>; 2],
) {
    let times = 2 * n;
    malloc.churn(times);
    aged.churn(times);
    lined_up.churn(times);
    let links = lined_up.links();
    let mut report = None;
    let passed = timed(|| report = Some(lined_up.heap().shuffle_along(links.iter().map(|link| link.0))));
    let moves = report.expect("it ran").progress.moves;
    println!(
        "shuffle_along: {moves} of {} nodes moved, {:.0} ns each\n",
        links.len(),
        passed.as_nanos() as f64 / moves as f64
    );
    assert_eq!(lined_up.keys().len(), n);
    assert!(lined_up.keys() == malloc.keys() && aged.keys() == malloc.keys(), "the structures are alike");
    let contestants = vec![
        walk::<_, false>(MALLOC, &malloc, n),
        walk::<_, false>("shuffler, get", &aged, n),
        walk::<_, false>("after shuffle_along, get", &lined_up, n),
        walk::<_, true>("after shuffle_along, get_after", &lined_up, n),
    ];
    let results = rounds::race(contestants, rounds);
    rounds::print(kind, &results);
    let times = 1.0 / results[3].ratio;
    let outcome = if times >= GOAL { "met" } else { "missed" };
    println!("\ngoal: {times:.1} times as fast as malloc, at least {GOAL}: {outcome}\n");
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let (n, rounds) = if quick { (100_000, 5) } else { (1_000_000, 11) };
    let shuffler = || Shuffler::new();
    let lists = [List::new(shuffler(), n), List::new(shuffler(), n)];
    race("list", n, rounds, List::new(Malloc, n), lists);
    let trees = [Tree::new(shuffler(), n), Tree::new(shuffler(), n)];
    race("tree", n, rounds, Tree::new(Malloc, n), trees);
}
