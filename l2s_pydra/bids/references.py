"""Works that a methods text cites, as lines to read and as BibTeX."""

import attrs

__all__ = ["REFERENCES", "Reference"]

_SPECIAL = str.maketrans({char: f"\\{char}" for char in "&%#_$"})


@attrs.frozen(kw_only=True)
class Reference:
    """A work."""

    key: str
    """Key in BibTeX."""
    kind: str = "article"
    """Type of the BibTeX entry."""
    authors: tuple[str, ...]
    """Family name and initials of each, ``Fischl B``; the last may be ``et al``."""
    title: str
    """Title."""
    where: str
    """Journal, conference or archive."""
    details: dict[str, str] = attrs.field(factory=dict, hash=False)
    """Further fields of BibTeX: volume, number, pages."""
    year: int
    """Year."""
    doi: str
    """Digital object identifier."""

    @property
    def line(self) -> str:
        """Entry of a list of references."""
        authors = ", ".join(self.authors)
        where = self.where
        if "volume" in self.details:
            number = f"({self.details['number']})" if "number" in self.details else ""
            where += f" {self.details['volume']}{number}"
        if "pages" in self.details:
            where += f":{self.details['pages']}"
        return f"{authors}. {self.title}. {where}, {self.year}. https://doi.org/{self.doi}"

    @property
    def bibtex(self) -> str:
        """Entry of a BibTeX file."""
        venue = {"article": "journal", "inproceedings": "booktitle"}.get(self.kind, "publisher")
        people = " and ".join(map(_person, self.authors))
        fields = {
            "author": people,
            "title": f"{{{self.title.translate(_SPECIAL)}}}",
            venue: self.where.translate(_SPECIAL),
            **{name: value.replace("-", "--") for name, value in self.details.items()},
            "year": str(self.year),
            "doi": self.doi,
        }
        lines = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items())
        return f"@{self.kind}{{{self.key},\n{lines}}}\n"


def _person(name: str) -> str:
    """Family name before the comma, as BibTeX wants it.

    >>> _person("Van Leemput K"), _person("et al")
    ('{Van Leemput}, K', 'others')
    """
    if name == "et al":
        return "others"
    family, _, initials = name.rpartition(" ")
    return f"{{{family}}}, {initials}" if " " in family else f"{family}, {initials}"


_WORKS = (
    Reference(
        key="learn2synth",
        kind="inproceedings",
        authors=("Hu X", "Zeng X", "Puonti O", "Iglesias JE", "Fischl B", "Balbastre Y"),
        title="Learn2Synth: Learning Optimal Data Synthesis Using Hypergradients for Brain Image "
        "Segmentation",
        where="ICCV",
        year=2025,
        doi="10.48550/arXiv.2411.16719",
    ),
    Reference(
        key="synthseg",
        authors=(
            *("Billot B", "Greve DN", "Puonti O", "Thielscher A", "Van Leemput K", "Fischl B"),
            *("Dalca AV", "Iglesias JE"),
        ),
        title="SynthSeg: Segmentation of brain MRI scans of any contrast and resolution without "
        "retraining",
        where="Medical Image Analysis",
        details={"volume": "86", "pages": "102789"},
        year=2023,
        doi="10.1016/j.media.2023.102789",
    ),
    Reference(
        key="unet",
        kind="inproceedings",
        authors=("Ronneberger O", "Fischer P", "Brox T"),
        title="U-Net: Convolutional Networks for Biomedical Image Segmentation",
        where="MICCAI",
        year=2015,
        doi="10.1007/978-3-319-24574-4_28",
    ),
    Reference(
        key="bids",
        authors=("Gorgolewski KJ", "Auer T", "Calhoun VD", "et al"),
        title="The brain imaging data structure, a format for organizing and describing outputs of "
        "neuroimaging experiments",
        where="Scientific Data",
        details={"volume": "3", "pages": "160044"},
        year=2016,
        doi="10.1038/sdata.2016.44",
    ),
    Reference(
        key="bidsapps",
        authors=("Gorgolewski KJ", "Alfaro-Almagro F", "Auer T", "et al"),
        title="BIDS apps: Improving ease of use, accessibility, and reproducibility of "
        "neuroimaging data analysis methods",
        where="PLOS Computational Biology",
        details={"volume": "13", "number": "3", "pages": "e1005209"},
        year=2017,
        doi="10.1371/journal.pcbi.1005209",
    ),
    Reference(
        key="satterthwaite",
        authors=("Satterthwaite FE",),
        title="An approximate distribution of estimates of variance components",
        where="Biometrics Bulletin",
        details={"volume": "2", "pages": "110-114"},
        year=1946,
        doi="10.2307/3002019",
    ),
    Reference(
        key="nibabel",
        kind="misc",
        authors=("Brett M", "Markiewicz CJ", "Hanke M", "et al"),
        title="nipy/nibabel",
        where="Zenodo",
        year=2024,
        doi="10.5281/zenodo.591597",
    ),
    Reference(
        key="pybids",
        authors=("Yarkoni T", "Markiewicz CJ", "de la Vega A", "et al"),
        title="PyBIDS: Python tools for BIDS data",
        where="Journal of Open Source Software",
        details={"volume": "4", "number": "40", "pages": "1294"},
        year=2019,
        doi="10.21105/joss.01294",
    ),
    Reference(
        key="pydra",
        kind="inproceedings",
        authors=(
            *("Jarecka D", "Goncalves M", "Markiewicz CJ", "Esteban O", "Lo N", "Kaczmarzyk J"),
            "Ghosh S",
        ),
        title="Pydra - a flexible and lightweight dataflow engine for scientific analyses",
        where="Proceedings of the 19th Python in Science Conference",
        year=2020,
        doi="10.25080/Majora-342d178e-012",
    ),
    Reference(
        key="pytorch",
        kind="inproceedings",
        authors=("Paszke A", "Gross S", "Massa F", "et al"),
        title="PyTorch: An Imperative Style, High-Performance Deep Learning Library",
        where="Advances in Neural Information Processing Systems",
        details={"volume": "32"},
        year=2019,
        doi="10.48550/arXiv.1912.01703",
    ),
)

REFERENCES: dict[str, Reference] = {work.key: work for work in _WORKS}
"""The works, by key."""
