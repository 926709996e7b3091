//! Random numbers of the host: the same on every machine and in every version.

use crate::reference::sample::threefry;

/// Third word of the key: no number of the host is one that a kernel draws from the same seed.
const HOST: u32 = 0x686f_7374;

/// FNV-1a: stable for ever, unlike the standard library's hashes.
pub fn hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// A stream of random numbers: Threefry-4x32-20 of a counter, so that streams of one seed share nothing and none has a past to
/// save.
#[derive(Debug, Clone)]
pub struct Random {
    seed: u64,
    stream: u64,
    /// Blocks drawn so far.
    block: u64,
    /// What is left of the last block: its second half.
    half: Option<u64>,
    /// The second number of the last Box-Muller pair.
    normal: Option<f64>,
}

impl Random {
    /// Stream `stream` of `seed`, from its beginning.
    pub fn new(seed: u64, stream: u64) -> Self {
        Self { seed, stream, block: 0, half: None, normal: None }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        if let Some(half) = self.half.take() {
            return half;
        }
        let words = |n: u64| (n as u32, (n >> 32) as u32);
        let ((b0, b1), (s0, s1), (k0, k1)) = (words(self.block), words(self.stream), words(self.seed));
        self.block = self.block.wrapping_add(1);
        let [a, b, c, d] = threefry([b0, b1, s0, s1], [k0, k1, HOST, 0]).map(u64::from);
        self.half = Some(c | d << 32);
        a | b << 32
    }

    /// A number in (0, 1), neither end included: one of 2^52 at equal distances.
    pub fn uniform(&mut self) -> f64 {
        ((self.bits() >> 12) as f64 + 0.5) * 2f64.powi(-52)
    }

    /// A number of the standard normal distribution, by Box and Muller. Its last bits are as the platform computes logarithms and
    /// cosines.
    pub fn normal(&mut self) -> f64 {
        if let Some(normal) = self.normal.take() {
            return normal;
        }
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.uniform()).sin_cos();
        self.normal = Some(radius * sin);
        radius * cos
    }

    /// One of 0 to n - 1, each as likely as the others (Lemire's method); 0 if n is 0.
    pub fn below(&mut self, n: usize) -> usize {
        let n = n as u64;
        if n == 0 {
            return 0;
        }
        // The low half of the product shows which of the numbers are one too many.
        let excess = n.wrapping_neg() % n;
        loop {
            let product = u128::from(self.bits()) * u128::from(n);
            if product as u64 >= excess {
                return (product >> 64) as usize;
            }
        }
    }

    /// Brings the items into a random order, each as likely as the others (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded once: a change would make every seed mean something else.
    #[test]
    fn numbers_never_change() {
        let mut r = Random::new(1, 2);
        assert_eq!([r.bits(), r.bits(), r.bits()], [15_755_659_717_436_496_993, 10_534_846_296_604_356_847, 11_619_445_577_613_000_616]);
        assert_eq!([r.uniform(), r.uniform()], [0.6387426258690595, 0.8908219456668277]);
        assert_eq!([r.below(10), r.below(1000), r.below(1 << 31)], [5, 809, 2_101_649_689]);
        for normal in [0.17265321728953653, 1.0160015838793963, -2.08215445753729] {
            assert!((r.normal() - normal).abs() < 1e-14);
        }
        let mut items: Vec<u32> = (0..10).collect();
        r.shuffle(&mut items);
        assert_eq!(items, [0, 7, 4, 2, 9, 6, 8, 5, 3, 1]);
    }

    #[test]
    fn streams_and_seeds_differ() {
        let first = |seed, stream| Random::new(seed, stream).bits();
        let all = [first(0, 0), first(1, 0), first(0, 1), first(1 << 32, 0), first(0, 1 << 32), first(u64::MAX, u64::MAX)];
        for (i, a) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|b| a != b));
        }
    }

    #[test]
    fn numbers_are_distributed_as_they_should_be() {
        const N: usize = 100_000;
        let mut r = Random::new(5, 0);
        let mean = |f: &mut dyn FnMut() -> f64| (0..N).map(|_| f()).sum::<f64>() / N as f64;
        // Five standard deviations of the mean.
        let near = |value: f64, expected: f64, deviation: f64| {
            assert!((value - expected).abs() < 5.0 * deviation / (N as f64).sqrt(), "{value} where {expected} is expected");
        };
        near(mean(&mut || r.uniform()), 0.5, (1.0f64 / 12.0).sqrt());
        near(mean(&mut || r.normal()), 0.0, 1.0);
        near(mean(&mut || r.normal().powi(2)), 1.0, 2f64.sqrt());
        near(mean(&mut || r.normal().powi(4)), 3.0, 96f64.sqrt());
        near(mean(&mut || r.normal() * r.normal()), 0.0, 1.0);
        for value in 0..3 {
            near(mean(&mut || f64::from(u8::from(r.below(3) == value))), 1.0 / 3.0, (2.0f64 / 9.0).sqrt());
        }
        assert_eq!((r.below(0), r.below(1)), (0, 0));
        // Every order of three, equally often.
        let mut orders = std::collections::BTreeMap::new();
        for _ in 0..N {
            let mut items = [0, 1, 2];
            r.shuffle(&mut items);
            *orders.entry(items).or_insert(0) += 1;
        }
        assert_eq!(orders.len(), 6);
        for count in orders.values() {
            near(f64::from(*count) / N as f64, 1.0 / 6.0, (5.0f64 / 36.0).sqrt());
        }
    }
}
