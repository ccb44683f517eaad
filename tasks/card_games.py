"""Card games: one move, or one formula, from a picture of the game.

Data: drawn here from a seed, by the rules of gym-cards, the four games of the agent table of the
Qwen2-VL paper (Zhai et al., "Fine-Tuning Large Vision-Language Models as Decision-Making Agents",
NeurIPS 2024). The paper plays whole games and reports the share that is won; here each picture is
one question, which the game's own rules judge, so that scores are not comparable with its.

=============  =====================================================================================
``numberline``  each pair of unlike numbers from 0 to 20, once: 420; right is the move that comes
                closer
``blackjack``   500 hands; right is the move with the higher expected return under the rules (an
                infinite deck, a dealer who draws up to 17), computed exactly; ``return`` is that of
                the move that was chosen, from -1 to 1, where the rest is played as well as can be
``ezpoint``     each hand of two cards that make 12 by ``+`` or ``*``, once: 304
``point24``     500 hands of four cards that can make 24; the formula has to use each card once
=============  =====================================================================================

Jack, queen and king count 10, the ace 1 (in blackjack also 11). Prompts: of RL4VLM
(``VLM_PPO/a2c_ppo_acktr/rl_utils.py``, action only) for the moves; for formulas, which are written
there sign by sign, evalkit's own. Metric: share of answers that the rules accept. An answer that is
neither a move nor a formula is wrong and counted as unparsed. Licence: evalkit's.
"""

from __future__ import annotations

import ast
import hashlib
import io
import itertools
import json
import operator
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from evalkit.errors import DataError
from evalkit.protocols import DEFAULT, Protocol
from evalkit.rows import image
from evalkit.task import Metric, Row, Subset, Task
from evalkit.types import Completion, Sample, Score

if TYPE_CHECKING:
    from PIL import Image as PILImage

SEED = 20240516
HANDS = 500
GREEN = "#35654d"
SIZE = 300
"""Pixels of a picture's sides, as in gym-cards."""
FACES = {1: "A", 11: "J", 12: "Q", 13: "K"}
Card = tuple[int, str]
"""Rank from 1 (ace) to 13 (king), and suit: C, D, H or S."""

# ---- the rules


def value(card: Card) -> int:
    """Points of a card: 1 for an ace, 10 for jack, queen and king."""
    return min(card[0], 10)


def total(values: Sequence[int]) -> tuple[int, bool]:
    """Points of a hand in blackjack, and whether an ace counts 11 in them."""
    soft = 1 in values and sum(values) + 10 <= 21
    return sum(values) + 10 * soft, soft


DECK = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10, 10)


@cache
def dealer(points: int, soft: bool) -> Mapping[int, Fraction]:
    """Chances of the dealer's final points; 0 stands for more than 21."""
    if points >= 17:
        return {points if points <= 21 else 0: Fraction(1)}
    chances: dict[int, Fraction] = {}
    for card in DECK:
        for end, chance in dealer(*drawn(points, soft, card)).items():
            chances[end] = chances.get(end, Fraction()) + chance / len(DECK)
    return chances


def drawn(points: int, soft: bool, card: int) -> tuple[int, bool]:
    """A hand's points and whether an ace counts 11, after one more card."""
    points += card
    if card == 1 and not soft and points + 10 <= 21:
        return points + 10, True
    return (points - 10, False) if soft and points > 21 else (points, soft)


@cache
def returns(points: int, soft: bool, shown: int) -> Mapping[str, Fraction]:
    """The expected return of each move, where the moves after it are the best ones."""
    ends: dict[int, Fraction] = {}
    for card in DECK:  # the dealer's second card
        for end, chance in dealer(*drawn(*total([shown]), card)).items():
            ends[end] = ends.get(end, Fraction()) + chance / len(DECK)
    stand = sum((p * ((points > end) - (points < end)) for end, p in ends.items()), Fraction())
    hit = Fraction()
    for card in DECK:
        after, still = drawn(points, soft, card)
        best = max(returns(after, still, shown).values()) if after <= 21 else Fraction(-1)
        hit += best / len(DECK)
    return {"stand": stand, "hit": hit}


OPERATORS: Mapping[type[ast.operator], Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def formula(text: str, goal: int) -> str | None:
    """The formula that an answer is, ``"(1+2)*8"``, with ``= 24`` behind it or not; None for
    anything else.
    """
    plain = text.strip().strip("`$\"'").rstrip(".")
    for sign, ascii_sign in (("×", "*"), ("·", "*"), ("÷", "/"), ("−", "-"), ("–", "-")):
        plain = plain.replace(sign, ascii_sign)
    plain = re.sub(rf"\s*=\s*{goal}\s*$", "", plain)
    return plain.strip() if re.fullmatch(r"[\d+\-*/() ]{1,60}", plain) else None


def worked_out(text: str) -> tuple[Fraction, list[int]] | None:
    """What a formula comes to, and the numbers in it; None where it is none."""
    numbers: list[int] = []

    def of(node: ast.expr) -> Fraction:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            numbers.append(node.value)
            return Fraction(node.value)
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            result: Fraction = OPERATORS[type(node.op)](of(node.left), of(node.right))
            return result
        raise ValueError("neither a whole number nor one of + - * /")

    try:
        return of(ast.parse(text, mode="eval").body), numbers
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


@lru_cache(maxsize=4096)
def can_make(numbers: tuple[float, ...], goal: int) -> bool:
    """Whether numbers make a goal, each used once, by ``+ - * /`` in any order."""
    if len(numbers) == 1:
        return abs(numbers[0] - goal) < 1e-6
    for i, j in itertools.combinations(range(len(numbers)), 2):
        a, b = numbers[i], numbers[j]
        rest = tuple(n for k, n in enumerate(numbers) if k not in (i, j))
        results = {a + b, a - b, b - a, a * b} | {x / y for x, y in ((a, b), (b, a)) if y}
        if any(can_make((*rest, r), goal) for r in results):
            return True
    return False


# ---- the games


def numberlines(chance: random.Random) -> Iterator[dict[str, Any]]:
    pairs = [(a, b) for a in range(21) for b in range(21) if a != b]
    chance.shuffle(pairs)
    for current, target in pairs:
        yield {"target": target, "current": current}


def deal(chance: random.Random) -> Card:
    return chance.randint(1, 13), chance.choice("CDHS")


def blackjacks(chance: random.Random) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    while len(seen) < HANDS:
        player, shown = [deal(chance), deal(chance)], deal(chance)
        while chance.random() < 0.4 and total([value(c) for c in player])[0] < 17:
            player.append(deal(chance))
        if total([value(c) for c in player])[0] > 21 or (key := repr((player, shown))) in seen:
            continue
        seen.add(key)
        yield {"dealer": [shown], "player": player}


def ezpoints(chance: random.Random) -> Iterator[dict[str, Any]]:
    pairs = [
        (a, b)
        for a in range(1, 14)
        for b in range(1, 14)
        if 12 in (min(a, 10) + min(b, 10), min(a, 10) * min(b, 10))
    ]
    hands = [((a, s), (b, t)) for a, b in pairs for s in "CDHS" for t in "CDHS"]
    chance.shuffle(hands)
    for hand in hands:
        yield {"cards": list(hand)}


def point24s(chance: random.Random) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    while len(seen) < HANDS:
        cards = [deal(chance) for _ in range(4)]
        if repr(cards) in seen or not can_make(tuple(sorted(value(c) for c in cards)), 24):
            continue
        seen.add(repr(cards))
        yield {"cards": cards}


GAMES = {
    "numberline": numberlines,
    "blackjack": blackjacks,
    "ezpoint": ezpoints,
    "point24": point24s,
}


@dataclass(frozen=True)
class Drawn:
    """The rows of a game: its state, and the picture of it. Raises DataError for a local copy:
    there is none.
    """

    game: str
    place: ClassVar[str] = "drawn when it runs"

    def rows(self, override: Path | None = None) -> Iterator[Mapping[str, Any]]:
        if override:
            raise DataError(f"{self.game} is drawn from a seed and takes no data ({override})")
        for state in GAMES[self.game](random.Random(f"{self.game} {SEED}")):  # noqa: S311
            out = io.BytesIO()
            picture(state).save(out, "PNG", compress_level=1)
            yield {"state": json.dumps(state), "image": {"bytes": out.getvalue(), "path": None}}

    def describe(self, override: Path | None = None) -> Mapping[str, Any]:
        """Known by states and pixels: another Pillow may draw letters in another way."""
        if override:
            raise DataError(f"{self.game} is drawn from a seed and takes no data ({override})")
        return {"kind": "drawn", "game": self.game, "sha256": fingerprint(self.game)}

    def count(self, override: Path | None = None) -> int | None:
        return {"numberline": 420, "ezpoint": 304}.get(self.game, HANDS)


@lru_cache(maxsize=8)
def fingerprint(game: str) -> str:
    """SHA-256, in hex, of a game's states and pictures."""
    digest = hashlib.sha256()
    for state in GAMES[game](random.Random(f"{game} {SEED}")):  # noqa: S311
        digest.update(json.dumps(state).encode() + picture(state).tobytes())
    return digest.hexdigest()


# ---- the pictures


def picture(state: Mapping[str, Any]) -> PILImage.Image:
    """The picture of a state, RGB."""
    from PIL import Image, ImageDraw

    if "target" in state:
        out = Image.new("RGB", (SIZE, SIZE), "white")
        draw = ImageDraw.Draw(out)
        draw.text((30, 60), f"Target: {state['target']}", "black", font=_font(36))
        draw.text((30, 180), f"Current: {state['current']}", "black", font=_font(36))
        return out
    out = Image.new("RGB", (SIZE, SIZE), GREEN)
    draw = ImageDraw.Draw(out)
    if "dealer" in state:
        draw.text((5, 3), "Dealer", "white", font=_font(16))
        draw.text((5, 150), "Player", "white", font=_font(16))
        out.paste(_card(*state["dealer"][0], width=52), (5, 26))
        draw.rounded_rectangle((61, 26, 112, 98), 5, fill="#7a1f2b", outline="white", width=3)
        for i, card in enumerate(state["player"]):
            out.paste(_card(*card, width=52), (5 + 57 * (i % 5), 173 + 60 * (i // 5)))
        return out
    width = 130 if len(state["cards"]) == 2 else 66
    for i, card in enumerate(state["cards"]):
        out.paste(_card(*card, width=width), (6 + i * (width + 8), 75))
    return out


@lru_cache(maxsize=8)
def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


@lru_cache(maxsize=256)
def _card(rank: int, suit: str, width: int) -> PILImage.Image:
    from PIL import Image, ImageDraw

    height = width * 7 // 5
    out = Image.new("RGB", (width, height), GREEN)
    draw = ImageDraw.Draw(out)
    draw.rounded_rectangle((0, 0, width - 1, height - 1), 5, fill="white", outline="black")
    colour = "#c0101a" if suit in "DH" else "black"
    draw.text((width * 0.08, 1), FACES.get(rank, str(rank)), colour, font=_font(width * 2 // 5))
    _suit(draw, suit, width * 0.62, height * 0.68, width * 0.24, colour)
    return out


def _suit(draw: Any, suit: str, x: float, y: float, r: float, colour: str) -> None:
    """A suit's sign around a point, ``r`` pixels to each side."""

    def disc(cx: float, cy: float, radius: float) -> None:
        draw.ellipse((cx - radius, cy - radius, cx + radius, cy + radius), fill=colour)

    if suit == "D":
        draw.polygon([(x, y - r * 1.2), (x + r, y), (x, y + r * 1.2), (x - r, y)], fill=colour)
        return
    half = r / 2
    if suit == "H":
        disc(x - half, y - half, half)
        disc(x + half, y - half, half)
        draw.polygon([(x - r, y - half * 0.6), (x + r, y - half * 0.6), (x, y + r)], fill=colour)
        return
    disc(x - half, y + half * 0.6, half)
    disc(x + half, y + half * 0.6, half)
    if suit == "S":
        draw.polygon([(x - r, y + half), (x + r, y + half), (x, y - r)], fill=colour)
    else:
        disc(x, y - half, half)
    draw.polygon([(x, y), (x + half, y + r * 1.1), (x - half, y + r * 1.1)], fill=colour)


# ---- the task

MOVE = 'Your response should be a valid json file in the following format: \n{{\n "action": '
ORIGIN = "RL4VLM, VLM_PPO/a2c_ppo_acktr/rl_utils.py (get_prompt, action_only)"
PROMPTS = {
    "numberline": Protocol(
        origin=ORIGIN,
        prompt="You are playing a game called number line. You will see a target number and a "
        "current number in the image. And your goal is to move the current number closer to the "
        "target by choosing either adding or subtracting one to the current number. "
        + MOVE
        + '"-" or "+" \n}}',
    ),
    "blackjack": Protocol(
        origin=ORIGIN,
        prompt="You are a blackjack player. You are observing the current game state, you can "
        "choose between ['stand', 'hit']. " + MOVE + '"stand" or "hit" \n}}',
    ),
    "ezpoint": Protocol(
        origin="evalkit",
        prompt="You are an expert card game player. You are observing two cards in the image. 'J', "
        "'Q' and 'K' count as '10', 'A' as '1'. Write a formula that evaluates to 12. Use the "
        "number of each card exactly once, and the operator + or *. Answer with the formula alone.",
    ),
    "point24": Protocol(
        origin="evalkit",
        prompt="You are an expert 24 points card game player. You are observing the four cards in "
        "the image. 'J', 'Q' and 'K' count as '10', 'A' as '1'. Write a formula that evaluates to "
        "24. Use the number of each card exactly once, the operators +, -, * and /, and brackets. "
        "Answer with the formula alone.",
    ),
}
GOALS = {"ezpoint": 12, "point24": 24}
MOVES = {"numberline": ("-", "+"), "blackjack": ("stand", "hit")}


class CardGames(Task):
    """One sample per picture; the target is the state of the game."""

    name = "card_games"
    description = "a move or a formula from a picture of a card game (success)"
    metrics = (Metric("success"),)
    max_new_tokens = 64
    subsets: ClassVar = {
        game: Subset(
            Drawn(game),
            protocols={DEFAULT: protocol},
            metrics=(Metric("success"), Metric("return", scale=1)) if game == "blackjack" else (),
        )
        for game, protocol in PROMPTS.items()
    }

    def samples(self, row: Row) -> Iterable[Sample]:
        yield Sample(
            id=f"{self.subset_name}-{row.number:03}",
            messages=self.ask(image(row)),
            target=json.loads(row["state"]),
        )

    def score(self, sample: Sample, completion: Completion) -> Score:
        game, state = self.subset_name, sample.target
        if game in GOALS:
            return score_formula(completion.text, state["cards"], game)
        move = chosen(completion.text, MOVES[game])
        if game == "numberline":
            right = "+" if state["target"] > state["current"] else "-"
            return Score({"success": float(move == right)}, parsed=move, unparsed=move is None)
        hand = total([value(c) for c in state["player"]])
        worth = returns(*hand, value(state["dealer"][0]))
        if move is None:
            return Score({"success": 0.0, "return": -1.0}, unparsed=True)
        success = float(worth[move] == max(worth.values()))
        return Score({"success": success, "return": float(worth[move])}, parsed=move)


def chosen(text: str, moves: Sequence[str]) -> str | None:
    """The move that an answer is, or states as its ``"action"``; None where it states none, or
    more than one.
    """
    stated = re.findall(r'"action"\s*:\s*"([^"]*)"', text)
    said = {s.strip().lower() for s in stated} or {text.strip().strip("\"'`.").lower()}
    return next(iter(said)) if len(said) == 1 and said <= {*moves} else None


def score_formula(text: str, cards: Sequence[Card], game: str) -> Score:
    read = formula(text, GOALS[game])
    result = worked_out(read) if read else None
    if result is None:
        return Score({"success": 0.0}, unparsed=True)
    came_to, numbers = result
    allowed = game == "point24" or not re.search(r"[-/()]", str(read))
    right = (
        came_to == GOALS[game] and allowed and sorted(numbers) == sorted(value(c) for c in cards)
    )
    return Score({"success": float(right)}, parsed=read)
