use super::{Bench, all_facts};
use etalon::Facts;
use etalon::kernel::cross_entropy::IGNORE;
use etalon::kernel::negatives::{MOST, Negatives, draw_negatives, incidence};
use etalon::kernel::progress::Progress;
use etalon::plan::SlotId;
use etalon::reference::negatives::pairs;
use etalon::tensor::Tensor;
use rand::RngExt;

const HERE: Progress =
    Progress { step: 41, micro: 2, draws: 0, fault: 0, seed: 0x1234_5678_9abc_def0, norm: 0.0, clip: 0.0, loss: 0.0, bad_loss: false };

/// Neighbours of each node, ascending.
type Graph = Vec<Vec<u32>>;

/// About `degree` neighbours a node, some of them none, none itself.
fn graph(t: &mut Bench, nodes: usize, degree: usize) -> Graph {
    let mut graph = vec![Vec::new(); nodes];
    for _ in 0..nodes * degree / 2 {
        let (a, b) = (t.rng.random_range(0..nodes), t.rng.random_range(0..nodes));
        if a != b && !graph[a].contains(&(b as u32)) {
            graph[a].push(b as u32);
            graph[b].push(a as u32);
        }
    }
    graph.iter_mut().for_each(|row| row.sort_unstable());
    graph
}

fn negatives(t: &mut Bench, graph: &Graph, count: usize, at: Progress, stream: u32) -> Negatives {
    let columns = graph.concat();
    let mut offsets = vec![0];
    graph.iter().for_each(|row| offsets.push(offsets[offsets.len() - 1] + row.len() as u32));
    Negatives {
        nodes: graph.len(),
        count,
        offsets: t.words("offsets", &offsets),
        columns: t.words("columns", &columns),
        entries: columns.len(),
        progress: t.words("progress", &at.words()),
        stream,
    }
}

/// A slot to be written, as one row.
fn output(t: &mut Bench, label: &str, words: usize) -> Tensor {
    let slot = t.words(label, &vec![0x5555_5555; words.max(1)]);
    Tensor { slot, offset: 0, rows: 1, cols: words, stride: words }
}

/// Ends and targets of the pairs; indices and entries.
struct Drawn {
    from: Vec<u32>,
    to: Vec<u32>,
    targets: Vec<u32>,
    indices: Vec<u32>,
    entries: Vec<u32>,
}

fn run(mut t: Bench, n: &Negatives, (stride, offset): (usize, usize)) -> Drawn {
    let ends = ["from", "to", "targets"].map(|label| output(&mut t, label, n.count));
    let places = ["indices", "entries"].map(|label| output(&mut t, label, n.nodes * n.width()));
    let slots: [SlotId; 3] = ends.map(|e| e.slot);
    draw_negatives(&mut t.builder, "draw", n, slots[0], slots[1], slots[2]).unwrap();
    let slots = (slots[0], slots[1], slots[2]);
    incidence(&mut t.builder, "incidence", n, slots, places[0].slot, places[1].slot, (stride, offset)).unwrap();
    let all: Vec<&Tensor> = ends.iter().chain(&places).collect();
    let mut words = t.verify_all(&all).0.into_iter().map(|v| v.into_iter().map(f32::to_bits).collect());
    let mut next = || words.next().unwrap();
    Drawn { from: next(), to: next(), targets: next(), indices: next(), entries: next() }
}

#[test]
fn pairs_are_no_edges_and_each_is_listed_at_both_ends() {
    for (_, facts) in all_facts() {
        for nodes in [1, 2, 7, 64, 65, 577] {
            for (count, place) in [(0, (1, 0)), (1, (1, 0)), (3, (2, 5)), (64, (3, 1)), (65, (1, 0)), (1000, (2, 0))] {
                let mut t = Bench::new(&facts, (nodes * count) as u64);
                let graph = graph(&mut t, nodes, nodes.min(6));
                let n = negatives(&mut t, &graph, count, HERE, 3);
                let width = n.width();
                let drawn = run(t, &n, place);
                let mut want: Vec<(usize, u32, u32)> = Vec::new();
                for p in 0..count {
                    let (a, b) = (drawn.from[p], drawn.to[p]);
                    let edge = a == b || graph[a as usize].contains(&b);
                    assert_eq!(drawn.targets[p], if edge { IGNORE } else { 0 });
                    if !edge {
                        let entry = (p * place.0 + place.1) as u32;
                        want.extend([(a as usize, b, entry), (b as usize, a, entry)]);
                    }
                }
                let places = drawn.indices.iter().zip(&drawn.entries).enumerate().map(|(i, (other, entry))| (i / width, *other, *entry));
                let (mut got, empty): (Vec<_>, Vec<_>) = places.partition(|(_, _, entry)| *entry != u32::MAX);
                assert!(empty.iter().all(|(n, other, _)| *n == *other as usize));
                want.sort_unstable();
                got.sort_unstable();
                assert_eq!(got, want, "{nodes} nodes, {count} pairs");
            }
        }
    }
}

#[test]
fn large_draws_are_cut() {
    for (name, facts) in all_facts() {
        let (mut t, count) = (Bench::new(&facts, 1), if name == "1 MiB bindings" { 262_144 } else { 300_000 });
        let graph = graph(&mut t, 3001, 5);
        let n = negatives(&mut t, &graph, count, HERE, 0);
        run(t, &n, (1, 0));
    }
}

/// Ends and targets of 1000 pairs of 50 nodes.
fn ends(facts: &Facts, at: Progress, stream: u32) -> Vec<u32> {
    let mut t = Bench::new(facts, 1);
    let graph = graph(&mut t, 50, 4);
    let n = negatives(&mut t, &graph, 1000, at, stream);
    let drawn = run(t, &n, (1, 0));
    [drawn.from, drawn.to].concat()
}

#[test]
fn draws_differ_by_what_they_should() {
    let facts = &all_facts()[0].1;
    let base = ends(facts, HERE, 0);
    assert_eq!(base, ends(facts, Progress { draws: 5, loss: 1.0, ..HERE }, 0));
    let others = [
        ends(facts, HERE, 1),
        ends(facts, Progress { step: 42, ..HERE }, 0),
        ends(facts, Progress { micro: 3, ..HERE }, 0),
        ends(facts, Progress { seed: HERE.seed ^ 1 << 40, ..HERE }, 0),
        ends(facts, Progress { seed: HERE.seed ^ 1, ..HERE }, 0),
        [&base[1000..], &base[..1000]].concat(), // one side is not the other
    ];
    for other in others {
        // By chance 1 of 50; five standard deviations of 2000 draws.
        let same = base.iter().zip(&other).filter(|(a, b)| a == b).count();
        assert!(same < 40 + 5 * 7, "{same} of 2000 ends agree");
    }
}

/// What the device draws is what the twin draws, to the bit: so the twin is counted, which needs no dispatches.
#[test]
fn pairs_of_nodes_are_drawn_equally_often() {
    // A ring: 40 ordered pairs of 8 nodes, or 28 of 7, are no edges.
    for (nodes, count) in [(8usize, 64usize), (8, 40), (8, 3), (8, 1000), (7, 64), (7, 1000)] {
        let steps = 200_000 / count as u32;
        let mut counts = vec![0.0; nodes * nodes];
        for step in 0..steps {
            for (a, b) in pairs(&Progress { step, ..HERE }, 0, nodes, count) {
                counts[a as usize * nodes + b as usize] += 1.0;
            }
        }
        let apart = |i: usize| (i / nodes + nodes - i % nodes) % nodes;
        // Where the number of nodes does not divide D some occur more often in a step; turned at random, all are alike over many.
        let cells: Vec<usize> = (0..nodes * nodes).filter(|i| (2..nodes - 1).contains(&apart(*i))).collect();
        let expected = cells.iter().map(|i| counts[*i]).sum::<f64>() / cells.len() as f64;
        let chi: f64 = cells.iter().map(|i| (counts[*i] - expected).powi(2) / expected).sum();
        // Chi-square with a degree of freedom less than cells: its mean and five standard deviations.
        let degrees = cells.len() as f64 - 1.0;
        println!("{nodes} nodes, {count} pairs: chi-square {chi:.1} of {degrees} degrees");
        assert!(chi < degrees + 5.0 * (2.0 * degrees).sqrt(), "{nodes} nodes, {count} pairs: {chi} of {degrees} degrees");
    }
}

#[test]
fn bad_operands_are_errors() {
    let mut t = Bench::new(&all_facts()[0].1, 1);
    let graph = graph(&mut t, 7, 3);
    let n = negatives(&mut t, &graph, 100, HERE, 0);
    let [from, to, targets, indices, entries] =
        ["from", "to", "targets", "indices", "entries"].map(|label| output(&mut t, label, 7 * n.width()).slot);
    let (b, ends) = (&mut t.builder, (from, to, targets));
    for bad in [
        Negatives { nodes: 0, ..n },
        Negatives { nodes: MOST + 1, ..n },
        Negatives { nodes: 1000, ..n },
        Negatives { count: MOST + 1, ..n },
        Negatives { count: 1000, ..n },
        Negatives { entries: 1000, ..n },
        Negatives { entries: 1 << 40, ..n },
        Negatives { progress: from, ..n },
    ] {
        draw_negatives(b, "bad", &bad, from, to, targets).unwrap_err();
    }
    for bad in [Negatives { nodes: 0, ..n }, Negatives { nodes: 1000, ..n }, Negatives { count: MOST + 1, ..n }] {
        incidence(b, "bad", &bad, ends, indices, entries, (1, 0)).unwrap_err();
    }
    draw_negatives(b, "progress", &n, from, n.progress, targets).unwrap_err();
    draw_negatives(b, "twice", &n, from, to, from).unwrap_err();
    incidence(b, "progress", &n, ends, n.progress, entries, (1, 0)).unwrap_err();
    incidence(b, "twice", &n, ends, from, entries, (1, 0)).unwrap_err();
    incidence(b, "entries", &n, ends, indices, entries, (1 << 30, 0)).unwrap_err();
    incidence(b, "entries", &n, ends, indices, entries, (1, u32::MAX as usize)).unwrap_err();
    incidence(b, "entries", &n, ends, indices, entries, (usize::MAX, usize::MAX)).unwrap_err();
}
