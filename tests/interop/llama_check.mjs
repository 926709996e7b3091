// llama_check.mjs MODEL.gguf TEXT PERPLEXITY.json GENERATED.json
//
// Runs a GGUF file that etalon has written in llama.cpp (the package node-llama-cpp, on the CPU). PERPLEXITY.json is what
// `etalon perplexity --json` said of it on TEXT, GENERATED.json what `etalon generate --json` said, greedily, with its prompt under `prompt`.
// Perplexities must be within 1 % (llama.cpp rounds activations to 8 bits); greedy tokens equal until the first step at which llama.cpp's
// two largest logits lie closer than 0.1.

import {readFileSync} from "node:fs";
import {createRequire} from "node:module";
import {pathToFileURL} from "node:url";

const [model, text, perplexity, generated] = process.argv.slice(2);
// The package is looked for where the command runs, not beside this file.
const require = createRequire(process.cwd() + "/");
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(require.resolve("node-llama-cpp")));
const read = (path) => JSON.parse(readFileSync(path, "utf8"));
const fail = (why) => {
    console.error("error: " + why);
    process.exit(1);
};

const ours = read(perplexity);
const llama = await getLlama({gpu: false, logLevel: LlamaLogLevel.error});
const loaded = await llama.loadModel({modelPath: model});
// One thread: its threads wait for each other by spinning, which on a busy machine takes minutes.
const context = await loaded.createContext({contextSize: Math.max(ours.window, 512), batchSize: ours.window, threads: 1});
const sequence = context.getSequence();

let tokens = loaded.tokenize(readFileSync(text, "utf8"), false);
tokens = tokens.slice(0, ours.tokens);
let [sum, count] = [0, 0];
for (let at = 0; at + ours.window <= tokens.length; at += ours.window) {
    const window = tokens.slice(at, at + ours.window);
    await sequence.clearHistory();
    const input = window.map((token, i) => i + 1 < window.length
        ? [token, {generateNext: {totalLogitWeight: true, logits: {filter: {tokens: [window[i + 1]], includeTop: 1}}}}]
        : token);
    const found = await sequence.controlledEvaluate(input);
    for (let i = 0; i + 1 < window.length; i++) {
        const {logits, totalLogitWeight} = found[i].next;
        const most = Math.max(...logits.values());
        sum += Math.log(totalLogitWeight) + most - logits.get(window[i + 1]);
        count += 1;
    }
}
const theirs = Math.exp(sum / count);
const off = Math.abs(theirs / ours.perplexity - 1);
console.log(`perplexity: etalon ${ours.perplexity.toFixed(4)}, llama.cpp ${theirs.toFixed(4)} (${(100 * off).toFixed(3)} %), ${count} predictions`);
if (count !== ours.predictions) fail(`${count} predictions where etalon counts ${ours.predictions}: the tokenizers differ`);
if (!(off < 0.01)) fail("perplexities are more than 1 % apart");

const run = read(generated);
await sequence.clearHistory();
let input = loaded.tokenize(run.prompt, false);
if (input.length !== run.prompt_tokens) fail(`the prompt is ${input.length} tokens here, ${run.prompt_tokens} in etalon`);
let equal = 0;
for (const token of run.tokens) {
    const last = input.length - 1;
    const found = await sequence.controlledEvaluate(input.map((t, i) => i === last ? [t, {generateNext: {logits: true}}] : t));
    const top = [...found[last].next.logits.entries()].sort((a, b) => b[1] - a[1]).slice(0, 2);
    if (top[0][0] !== token) {
        const gap = top[0][1] - top[1][1];
        if (gap >= 0.1) fail(`token ${equal}: etalon ${token}, llama.cpp ${top[0][0]}, ahead by ${gap.toFixed(3)}`);
        console.log(`greedy tokens: ${equal} equal, then llama.cpp's two largest logits lie ${gap.toFixed(3)} apart`);
        process.exit(0);
    }
    equal += 1;
    input = [token];
}
console.log(`greedy tokens: all ${equal} equal`);
process.exit(0);
