//! Hyper-parameters of HyboNet's scripts (Chen et al. 2022), which the SST paper's graph experiments follow; all with 16 coordinates.

/// Hyper-parameters of a graph and task.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preset {
    /// Learning rate.
    pub rate: f64,
    /// Layers, the classes' points not counted.
    pub layers: usize,
    /// Dropout of each layer's inputs.
    pub dropout: f32,
    /// The same for methods of low rank, where the paper changed it.
    pub dropout_low: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Margin of the loss.
    pub margin: f32,
    /// Largest norm of all gradients together.
    pub clip: Option<f32>,
    /// ReLU between layers.
    pub relu: bool,
    /// Rows of features are divided by their sums.
    pub normalise: bool,
    /// Columns of degrees and a constant, and for links the fifth value of a node, are added to the features.
    pub degrees: bool,
    /// Nodes that follow the first of the validation's also validate, up to so many (0: those listed).
    pub valid: usize,
}

impl Default for Preset {
    fn default() -> Self {
        Self {
            rate: 0.01,
            layers: 2,
            dropout: 0.0,
            dropout_low: 0.0,
            weight_decay: 0.0,
            margin: 2.0,
            clip: Some(0.5),
            relu: false,
            normalise: true,
            degrees: false,
            valid: 0,
        }
    }
}

/// The preset of a graph by its name, for links or classes; the default one for others.
pub fn preset(name: &str, links: bool) -> Preset {
    let d = Preset::default();
    match (name.split(['_', '-']).next().unwrap_or_default(), links) {
        ("airport", true) => Preset { clip: None, degrees: true, ..d },
        ("airport", false) => Preset { rate: 0.02, layers: 5, weight_decay: 1e-4, clip: Some(1.0), relu: true, degrees: true, ..d },
        ("cora", true) => Preset { rate: 0.02, dropout: 0.7, dropout_low: 0.7, weight_decay: 1e-3, margin: 0.1, ..d },
        ("cora", false) => {
            Preset { rate: 0.02, dropout: 0.9, dropout_low: 0.5, weight_decay: 0.01, margin: 1.0, clip: Some(1.0), valid: 1000, ..d }
        }
        ("disease", true) => Preset { rate: 0.005, margin: 30.0, normalise: false, ..d },
        ("disease", false) => Preset { rate: 0.005, layers: 3, dropout: 0.1, dropout_low: 0.1, ..d },
        ("pubmed", true) => Preset { rate: 0.008, dropout: 0.5, dropout_low: 0.5, margin: 0.3, ..d },
        ("pubmed", false) => Preset { rate: 0.02, dropout: 0.8, dropout_low: 0.8, weight_decay: 1e-3, margin: 1.0, valid: 1000, ..d },
        _ => d,
    }
}
