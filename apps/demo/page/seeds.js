// Seeds as people write them: "0-3, 17".

export const MOST = 16;

export function parseSeeds(text) {
  const seeds = [];
  for (const part of text.split(",").map((each) => each.trim()).filter(Boolean)) {
    const found = /^(\d{1,15})(?:\s*-\s*(\d{1,15}))?$/.exec(part);
    const low = Number(found?.[1]), high = Number(found?.[2] ?? found?.[1]);
    if (!found || low > high) throw Object.assign(new Error("Seeds are numbers and ranges, as in 0-3, 17."), { field: "seeds" });
    for (let seed = low; seed <= high && seeds.length <= MOST; seed++) seeds.push(seed);
  }
  if (!seeds.length || seeds.length > MOST) {
    throw Object.assign(new Error(`There are 1 to ${MOST} seeds, a candidate each.`), { field: "seeds" });
  }
  return seeds;
}

export function formatSeeds(seeds) {
  const ranges = [];
  for (const seed of seeds) {
    const last = ranges.at(-1);
    if (last && seed === last[1] + 1) last[1] = seed;
    else ranges.push([seed, seed]);
  }
  return ranges.map(([low, high]) => (low === high ? `${low}` : `${low}-${high}`)).join(", ");
}
