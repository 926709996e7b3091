"""The plain form of a graph: edges.txt, labels.txt, features.svm, nodes and links divided into training, validation and test."""
import json
import random


def write(folder, edges, labels, features, division=None):
    """`features`: for each node its columns, whose values are 1. Without a division 70 % of the nodes that have a class are
    to train on, 15 % to validate and 15 % to test by. Of the links 5 % validate and 10 % test, with as many pairs that are
    none."""
    def save(name, lines):
        with open(f'{folder}/{name}', 'w', encoding='utf-8') as file:
            file.writelines(line + '\n' for line in lines)

    def pairs(all_of_them):
        return [f'{a} {b}' for a, b in all_of_them]

    edges = sorted({(min(a, b), max(a, b)) for a, b in edges if a != b})
    save('edges.txt', pairs(edges))
    save('labels.txt', map(str, labels))
    save('features.svm', (' '.join(f'{column}:1' for column in sorted(row)) for row in features))
    draw = random.Random(0)
    if division is None:
        nodes = [i for i, label in enumerate(labels) if label >= 0]
        draw.shuffle(nodes)
        ends = int(.7 * len(nodes)), int(.85 * len(nodes))
        division = {'train': sorted(nodes[:ends[0]]), 'valid': sorted(nodes[ends[0]:ends[1]]), 'test': sorted(nodes[ends[1]:])}
    save_division(f'{folder}/split_nc.json', division)
    links = edges[:]
    draw.shuffle(links)
    valid, test = int(.05 * len(links)), int(.10 * len(links))
    there, none = set(edges), set()
    while len(none) < valid + test:
        a, b = draw.randrange(len(labels)), draw.randrange(len(labels))
        pair = min(a, b), max(a, b)
        if a != b and pair not in there:
            none.add(pair)
    none = sorted(none)
    draw.shuffle(none)
    parts = {'train': links[valid + test:], 'valid': links[:valid], 'test': links[valid:valid + test],
             'valid_neg': none[:valid], 'test_neg': none[valid:]}
    for name, part in parts.items():
        save(f'lp_{name}.txt', pairs(part))


def save_division(path, division):
    with open(path, 'w', encoding='utf-8') as file:
        json.dump(division, file)


def twenty_of_each(labels):
    """Planetoid's kind of division: 20 nodes a class to train on, then 500 to validate and 1,000 to test by."""
    order = [i for i, label in enumerate(labels) if label >= 0]
    random.Random(0).shuffle(order)
    train, count = [], {}
    for i in order:
        if count.get(labels[i], 0) < 20:
            count[labels[i]] = count.get(labels[i], 0) + 1
            train.append(i)
    chosen = set(train)
    rest = [i for i in order if i not in chosen]
    return {'train': sorted(train), 'valid': sorted(rest[:500]), 'test': sorted(rest[500:1500])}
