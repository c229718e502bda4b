"""Names that have one meaning: commands, signs and plain words. Tables only."""

from __future__ import annotations


def _table(text: str) -> dict[str, str]:
    """`name=alias alias …` on every line, as alias → name."""
    lines = (line.partition("=") for line in text.split("\n") if line.strip())
    return {alias: name.strip() for name, _, aliases in lines for alias in aliases.split()}


# What another command says as well.
ALIASES = _table(r"""
frac=dfrac tfrac cfrac sfrac nicefrac
binom=dbinom tbinom
le=leq leqslant leqq
ge=geq geqslant geqq
ne=neq
emptyset=varnothing
cup=bigcup
cap=bigcap
setminus=smallsetminus backslash
ldots=dots cdots dotsc dotsb dotso
tan=tg
cot=ctg cotg
arctan=arctg atan
arcsin=asin
arccos=acos
csc=cosec
sinh=sh
cosh=ch
log=lg
infty=infin
overline=bar
vec=overrightarrow
hat=widehat
tilde=widetilde
equiv=cong
mod=bmod pmod pod
approx=simeq doteq thickapprox
to=rightarrow longrightarrow
pm=plusmn
implies=Rightarrow Longrightarrow therefore
""")

# Commands that are one sign here, and signs of Unicode that NFKC would not read as mathematics.
SYMBOLS = {
    **{f"\\{name}": sign for name, sign in {
        "lt": "<", "gt": ">", "times": r"\cdot ", "ast": r"\cdot ", "div": "/", "lbrack": "[",
        "rbrack": "]", "lbrace": r"\{", "rbrace": r"\}", "langle": "(", "rangle": ")",
        "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "mathdollar": r"\$", "euro": "€",
        "textdollar": r"\$", "pounds": "£", "yen": "¥", "degree": r"^{\circ}", "prime": "'",
        "colon": ":", "textdegree": r"^{\circ}", "quad": r"\quad ", "qquad": r"\quad ",
        "coloneqq": "=", "textunderscore": "_", "percent": "%", "lor": '"or"', "land": '"and"',
        "vee": '"or"', "wedge": '"and"', "N": r"\mathbb{N}", "R": r"\mathbb{R}", "Z": r"\mathbb{Z}",
        "bullet": r"\cdot ", "iff": r"\iff ", "ohm": '"Ω"', "Omega": r"\Omega ",
    }.items()},
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": r"\times ", "·": r"\cdot ",
    "⋅": r"\cdot ", "∙": r"\cdot ", "∗": r"\cdot ", "•": r"\cdot ", "÷": "/", "∕": "/", "⁄": "/",
    "∞": r"\infty ", "°": r"^{\circ}", "º": r"^{\circ}", "˚": r"^{\circ}", "≤": r"\le ",
    "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "≡": r"\equiv ",
    "∈": r"\in ", "∪": r"\cup ", "∩": r"\cap ", "∖": r"\setminus ", "∅": r"\emptyset ",
    "⊂": r"\subset ", "⊆": r"\subseteq ", "±": r"\pm ", "∓": r"\mp ", "√": r"\sqrt ",
    "∛": r"\sqrt[3]", "∜": r"\sqrt[4]", "∑": r"\sum ", "∏": r"\prod ", "∫": r"\int ",
    "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "⟨": "(", "⟩": ")",
    "〈": "(", "〉": ")", "∠": r"\angle ", "△": r"\triangle ", "⊥": r"\perp ", "→": r"\to ",
    "⇒": r"\implies ", "∀": r"\forall ", "∧": r"\land ", "∨": r"\lor ", "′": "'", "″": "''",
    "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}",
    "ℂ": r"\mathbb{C}", "…": r"\ldots ", "⋯": r"\ldots ", "∣": "|", "¬": r"\neg ", "、": ", ",
    "。": ".", "٫": ".", "٬": ",", "‘": "'", "’": "'", "Ω": "Ω", "∂": r"\partial ", "∶": ":",
    "【": "[", "】": "]", "℃": r"^{\circ}\mathrm{C}", "℉": r"^{\circ}\mathrm{F}",
    "✓": "", "✔": "", "✅": "", "■": "", "□": "", "∎": "",
    "或": r"\text{ or }", "和": r"\text{ and }", "且": r"\text{ and }", "与": r"\text{ and }",
    "及": r"\text{ and }",
}  # fmt: skip

DROPPED = frozenset(
    """left right middle big Big bigg Bigg bigl bigr bigm Bigl Bigr Bigm biggl biggr biggm Biggl
    Biggr Biggm displaystyle textstyle scriptstyle limits nolimits tiny scriptsize footnotesize
    small normalsize large Large LARGE huge Huge bf it sf tt sl em cal bfseries itshape sffamily
    ttfamily mathstrut strut nonumber notag checkmark square blacksquare qed Box hfill noindent
    relax thinspace medspace thickspace negthinspace enspace par centering allowbreak""".split()  # noqa: SIM905
)
# Commands that vanish with so many arguments.
DROPPED_ARGUMENTS = {
    **dict.fromkeys("phantom hphantom vphantom hspace vspace color tag label mspace".split(), 1),  # noqa: SIM905
    "textcolor": 1,
    "colorbox": 1,
    "fcolorbox": 2,
}
DROPPED_LENGTH = frozenset("kern mkern hskip mskip vskip".split())  # noqa: SIM905
UNWRAPPED = frozenset(
    """mathbf mathsf mathit mathnormal mathtt boldsymbol bm pmb underline boxed fbox ensuremath
    mathop mathrel mathbin mathord mathpunct mathclose mathopen bold uline framebox
    overbrace""".split()  # noqa: SIM905
)
UPRIGHT = frozenset(
    """text mbox hbox mathrm textrm textnormal textbf textit textsf texttt textup textsc textmd
    emph operatorname operatornamewithlimits mathup textsl""".split()  # noqa: SIM905
)
MATRICES = frozenset(
    "matrix pmatrix bmatrix Bmatrix smallmatrix psmallmatrix bsmallmatrix array".split()  # noqa: SIM905
)
LISTS = frozenset("cases aligned align gathered gather split equation dcases alignedat".split())  # noqa: SIM905

# Marks that make another name of the name below them.
MARKS = frozenset(
    """overline dot mathbb mathcal mathfrak vec hat tilde cancel not
    underbrace""".split()  # noqa: SIM905
)

# Names of functions and constants, upright or without a backslash.
FUNCTIONS = {
    **{name: name for name in """sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh
    ln log exp pi sqrt cbrt infty gcd lcm max min cis arg det mod theta alpha beta gamma lambda
    phi sigma omega""".split()},  # noqa: SIM905
    **_table("""
    arctan=arctg atan
    arcsin=asin
    arccos=acos
    tan=tg
    cot=ctg
    csc=cosec
    log=lg
    infty=infinity Infinity inf
    abs=abs Abs
    sqrt=Sqrt
    pi=Pi
    """),
}  # fmt: skip

# Short words that are no products of letters.
PLAIN_WORDS = frozenset(
    """no on up if is it in at to of or and not yes odd one two six ten red for the all any day
    men man egg eggs cat dog pen car bus boy kid box way ways pts ft hrs min sec mon tue wed thu
    fri sat sun usd eur gbp cny inr rmb rs us chf jpy krw aud cad mxn pln sek nok
    day days cats dogs boys kids pens cars cups cup none
    true east west even both per deg rad sum tea eat ate ton not now won own was saw god its
    he she we me my go so do as by an am pm oh her his new old big son win low high art rat tar
    act log ink set net pot top tip pit nap pan ape pea""".split()  # noqa: SIM905
)
