// What tabs share: the two samples that were picked last, whichever tab they were picked in.

const now = [{ number: 0 }, { number: 1 }];

export const picked = (slot) => now[slot] ?? {};

export function pick(slot, value) {
  now[slot] = value;
  document.dispatchEvent(new Event("picked"));
}

// From the map: the new one is the first, what was first becomes the second.
export function push(number) {
  if (now[0].number === number) return;
  now[1] = now[0];
  pick(0, { number });
}

export function begin(count) {
  now[0] = count ? { number: 0 } : {};
  now[1] = count > 1 ? { number: 1 } : {};
}
