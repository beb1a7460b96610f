// node node_llama_cpp.mjs MODEL THREADS speeds|first: what versus_llama_cpp asks of the llama.cpp inside node-llama-cpp.
// Runs in the folder where the package is installed. Prints one line of JSON.
import {getLlama, LlamaLogLevel} from "node-llama-cpp";

const [model_path, threads_text, what] = process.argv.slice(2);
const threads = Number(threads_text);
const llama = await getLlama({gpu: false, build: "never", logLevel: LlamaLogLevel.error, maxThreads: threads});
const model = await llama.loadModel({modelPath: model_path});

const ids = (count) => Array.from({length: count}, (_, i) => (i * 40503 + 7) % 50000);

/** Tokens per second of `work` on a fresh context, after a short prompt that pays for the graph. */
async function rate(sequences, tokens, work) {
    const context = await model.createContext({contextSize: 1024, batchSize: 512, sequences, threads});
    const open = Array.from({length: sequences}, () => context.getSequence());
    await prefill(open, 16);
    await open[0].clearHistory();
    const seconds = await work(open);
    await context.dispose();
    return tokens / seconds;
}

async function prefill(sequences, count) {
    const begin = performance.now();
    await sequences[0].controlledEvaluate(ids(count).map((t, i) => (i === count - 1 ? [t, {generateNext: {token: true}}] : t)));
    return (performance.now() - begin) / 1000;
}

async function decode(sequences, count) {
    const one = async (sequence) => {
        let made = 0;
        for await (const _ of sequence.evaluate(ids(1), {temperature: 0, yieldEogToken: true})) if (++made === count) break;
    };
    const begin = performance.now();
    await Promise.all(sequences.map(one));
    return (performance.now() - begin) / 1000;
}

if (what === "first") {
    const context = await model.createContext({contextSize: 256, batchSize: 512, threads});
    await prefill([context.getSequence()], 128);
    console.log(JSON.stringify({done: true}));
} else {
    console.log(JSON.stringify({
        "prefill 128": await rate(1, 128, (s) => prefill(s, 128)),
        "prefill 512": await rate(1, 512, (s) => prefill(s, 512)),
        "decode": await rate(1, 32, (s) => decode(s, 32)),
        "decode batch 4": await rate(4, 4 * 16, (s) => decode(s, 16)),
    }));
}
process.exit(0);
