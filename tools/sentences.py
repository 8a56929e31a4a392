"""Sentences of the synthesised corpus, drawn from small grammars: everyday talk, and the commands of the two tasks.

A grammar is a list of templates; ``{room}`` in a template stands for any word or phrase of ``WORDS["room"]``, and every
text is made of lower-case letters and spaces. ``everyday``, ``command`` and ``request`` draw one text each.
"""

from __future__ import annotations

import re

import numpy as np

WORDS = {
    name: tuple(phrase.strip() for phrase in phrases.split("|"))
    for name, phrases in {
        # the commands
        "switch": "turn|switch",
        "on_off": "on|off",
        "room": "kitchen|bedroom|bathroom|office|garden",
        "device": "lights|heating|fan|radio",
        "number": "ten|fifteen|twenty|thirty|forty",
        "open_close": "open|close",
        "opening": "door|window",
        "volume": "quiet|loud",
        # the requests
        "music": "jazz|piano|guitar|opera|folk|rock",
        "city": "london|paris|berlin|madrid|oslo|rome",
        "day": "today|tomorrow|on monday|on friday|this evening|at the weekend",
        "hour": "five|six|seven|eight|nine|half past six|half past seven|quarter to eight",
        "before": "|||please|could you|hey computer|would you|i think|well",
        "after": "|||please|now|for me|right now|thank you",
        # everyday talk
        "person": "my neighbour|the old teacher|her brother|a young doctor|our cousin|the farmer|his daughter"
        "|the captain|a friend of mine|the woman next door|my grandfather|the boy|their uncle|the postman"
        "|a stranger|the singer",
        "did": "found|lost|bought|sold|carried|painted|repaired|forgot|borrowed|hid|admired|described|dropped|cleaned",
        "thing": "a small dog|the broken chair|an old map|three red apples|a heavy box|the silver key|a blue jacket"
        "|the morning paper|a cup of coffee|some fresh bread|the wooden table|a long letter|two white horses"
        "|the yellow umbrella|a strange picture|the last ticket|his favourite book|a basket of fish",
        "place": "near the river|behind the church|at the market|in the forest|on the train|under the bridge|by the sea"
        "|in the middle of the street|outside the library|at the station|on the hill|in the village|across the valley",
        "time": "yesterday|last summer|before breakfast|in the afternoon|every winter|after the storm|at midnight"
        "|a week ago|on the way home|during the holidays|early this morning|when the war was over",
        "quality": "beautiful|difficult|cheap|dangerous|funny|quiet|enormous|famous|useful|boring|strange|gentle",
        "subject": "the journey|this question|her voice|the weather|that machine|the film|our garden|his idea|the music"
        "|their house|the water|this language|the mountain road",
        "feeling": "happy|tired|angry|surprised|hungry|worried|proud|ready to leave|sure about it|afraid of the dark",
        "plan": "visit the museum|learn how to swim|move to another town|write a longer story|cook a simple dinner"
        "|paint the fence green|catch the early bus|plant some flowers|call the office|sleep until noon|open a shop",
    }.items()
}

COMMANDS = (
    "{switch} {on_off} the {room} {device}",
    "{switch} the {room} {device} {on_off}",
    "set the {room} heating to {number} degrees",
    "set the {room} lights to {number} percent",
    "{open_close} the {room} {opening}",
    "play {volume} music in the {room}",
    "stop the music in the {room}",
    "please {switch} {on_off} the {device} in the {room}",
)

REQUESTS = {
    "lights": "switch the {room} lights on|i need more light in the {room}",
    "heating": "it is too cold in the {room}|turn up the heating in the {room}",
    "music": "play some {music} music|put on the {music} playlist",
    "alarm": "wake me up at {hour} {day}|set an alarm for {hour} {day}",
    "weather": "will it rain in {city} {day}|what is the weather in {city} {day}",
    "door": "open the front door to the {room}|unlock the door of the {room}",
    "news": "read me the news from {city}|what is in the news about {city}",
    "call": "make a phone call to my brother in {city}|call my brother in {city} {day}",
}
INTENTS = tuple(REQUESTS)

EVERYDAY = (
    "{time} {person} {did} {thing} {place}",
    "{person} {did} {thing} {time}",
    "{person} and {person} {did} {thing} {place}",
    "{subject} was more {quality} than we had expected",
    "i have never been so {feeling} as {time}",
    "do you know why {person} {did} {thing}",
    "if you are {feeling} we could {plan}",
    "{time} we wanted to {plan} but {person} was {feeling}",
    "nobody told me that {subject} is so {quality}",
    "there were {number} people {place} and {person} was one of them",
    "they say that {subject} is {quality} and {quality}",
    "it is {number} minutes past {hour} and {person} is still {place}",
    "she asked whether {person} would {plan} {day}",
)


def everyday(rng: np.random.Generator) -> str:
    """A sentence of everyday talk, of 7 to 20 words."""
    return _filled(str(rng.choice(EVERYDAY)), rng)


def command(rng: np.random.Generator, *, double: float = 0.5) -> str:
    """One command to a house, or with probability ``double`` two joined by "and"; 36 words in all."""
    first = _filled(str(rng.choice(COMMANDS)), rng)
    return first if rng.random() >= double else f"{first} and {_filled(str(rng.choice(COMMANDS)), rng)}"


def request(intent: str, rng: np.random.Generator, *, template: int | None = None) -> str:
    """A request with that intent, by its ``template`` (modulo their number) or by any, at times among polite words."""
    templates = REQUESTS[intent].split("|")
    chosen = int(rng.integers(len(templates))) if template is None else template % len(templates)
    return _filled(f"{{before}} {templates[chosen]} {{after}}", rng)


def _filled(template: str, rng: np.random.Generator) -> str:
    text = re.sub(r"{(\w+)}", lambda slot: str(rng.choice(WORDS[slot[1]])), template)
    return " ".join(text.split())
