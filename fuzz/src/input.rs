/// The input as a sequence of small decisions; when it ends every answer is the first.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl Input<'_> {
    pub(crate) fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// From one byte: `n` is at most 256.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::from(self.next().unwrap_or(0)) % n
    }

    /// From two bytes: `n` is at most 65,536.
    pub(crate) fn below_many(&mut self, n: usize) -> usize {
        let [low, high] = [(); 2].map(|()| usize::from(self.next().unwrap_or(0)));
        (low | high << 8) % n
    }

    pub(crate) fn pick<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.below(among.len())]
    }

    /// Any number; small and huge ones are likely.
    pub(crate) fn number(&mut self) -> u64 {
        let value = self.next().unwrap_or(0);
        match value % 4 {
            0 => u64::from(value) >> 2,
            1 => !(u64::from(value) >> 2),
            2 => 1 << (value >> 2),
            _ => (0..8).fold(0, |number, _| number << 8 | u64::from(self.next().unwrap_or(0))),
        }
    }
}
