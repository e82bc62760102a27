from __future__ import annotations

import pytest

from asrkit.text.telephone import (
    normalize_callhome,
    normalize_fisher,
    normalize_hub5,
    normalize_switchboard,
    read_acronyms,
)

SWITCHBOARD: list[tuple[str, str]] = [
    (
        "hi um yeah i'd like to talk about how you dress for work and and um what do you normally",
        "hi um yeah i'd like to talk about how you dress for work and and um what do you normally",
    ),
    ("um-hum", "um-hum"),
    ("huh-uh no way", "huh-uh no way"),
    ("nineteen ninety-two i guess", "nineteen ninety-two i guess"),
    ("rock and roll 'cause i'm old", "rock and roll 'cause i'm old"),
    ("we've got one in the U S", "we've got one in the u s"),
    ("A T and T right", "a t and t right"),
    ("[silence]", ""),
    ("[noise] [silence]", ""),
    ("[laughter] [noise] [vocalized-noise] [silence]", ""),
    ("[laughter] yeah", "yeah"),
    ("oh [vocalized-noise] well i don't know", "oh well i don't know"),
    ("twenty-five [noise] thirty dollars", "twenty-five thirty dollars"),
    ("[laughter-story] of my life", "story of my life"),
    ("that's [laughter-right] [laughter-yeah]", "that's right yeah"),
    ("i [laughter-don't] think so [laughter]", "i don't think so"),
    ("[laughter-uh-huh] it is", "uh-huh it is"),
    ("i [laughter-wa[s]-] was there", "i wa- was there"),
    ("i mean [laughter-th]- they did", "i mean th- they did"),
    ("[laughter-ou[r]-] our dog", "ou- our dog"),
    ("[laughter-[sware/square]] dancing", "sware dancing"),
    ("kind of [laughter-{yuppyish}]", "kind of yuppyish"),
    ("it's ab[solute]- absolutely true", "it's ab- absolutely true"),
    ("i w[as]- i was going to say", "i w- i was going to say"),
    ("th[at]- that's tha[t's]- that's fine", "th- that's tha- that's fine"),
    ("y[ou]- you know", "y- you know"),
    ("i['m]- i'm not", "i- i'm not"),
    ("i- i- i do", "i- i- i do"),
    ("we wen[t]- [laughter] wen[t]- went", "we wen- wen- went"),
    ("-[o]kay let's go", "-kay let's go"),
    ("-[an]y more than that", "-y more than that"),
    ("-[i]t's all right", "-t's all right"),
    ("is it -[pro]bably", "is it -bably"),
    ("it'd be o[kay]- -[o]kay with me", "it'd be o- -kay with me"),
    ("-[a]b[out]- about ten", "-b- about ten"),
    ("ammu[n]it[ion]- ammunition", "ammu-it- ammunition"),
    ("she ab[so]lutely loves it", "she ab-lutely loves it"),
    ("[it'n/isn't] that something", "it'n that something"),
    ("we [tranged/changed] it", "we tranged it"),
    ("a [lem[guini]-/linguini] dish", "a lem- dish"),
    ("[disea[l]-/diesel] engine", "disea- engine"),
    ("they were [tack/talking]- talking", "they were tack- talking"),
    ("ex[specially]-/especially] in the summer", "ex- in the summer"),
    ("the whole {yuppiedom} thing", "the whole yuppiedom thing"),
    ("{alrighty} then", "alrighty then"),
    ("all of them_1", "all of them"),
    ("okay_1 bye-bye", "okay bye-bye"),
    ("that's one of them_1's", "that's one of them's"),
    ("just because_1 it's about_1 [laughter-them_1]", "just because it's about them"),
    ("<b_aside> no put that down <e_aside> sorry about that", "no put that down sorry about that"),
    ("<b_aside> hold on <e_aside>", "hold on"),
]

FISHER: list[tuple[str, str]] = [
    ("and i generally prefer", "and i generally prefer"),
    ("hi my name is andy", "hi my name is andy"),
    ("I'm from philadelphia", "i'm from philadelphia"),
    ("mhm", "mhm"),
    ("uh-huh [laughter] uh-huh", "uh-huh uh-huh"),
    ("nine eleven two thousand and one", "nine eleven two thousand and one"),
    ("twenty-three years old", "twenty-three years old"),
    ("e-mail and t-shirts", "e-mail and t-shirts"),
    ("'cause i told 'em", "'cause i told 'em"),
    ("i watch c._n._n. a lot", "i watch c n n a lot"),
    ("on t._v. you know", "on t v you know"),
    ("he went to u._c._l._a.", "he went to u c l a"),
    ("it starts at seven p._m.", "it starts at seven p m"),
    ("an s._u._v. or an r._v.", "an s u v or an r v"),
    ("at a._t. and t.", "at a t and t"),
    ("w._w._w. dot com", "w w w dot com"),
    ("i bought two c._d.s", "i bought two c d's"),
    ("d._v._d.s and v._c._r.s", "d v d's and v c r's"),
    ("the u._s.'s policy", "the u s's policy"),
    ("the n._b._a.'s best player", "the n b a's best player"),
    ("she got straight a.s", "she got straight a's"),
    ("a. b. c. d.", "a b c d"),
    ("vitamin c. and e.", "vitamin c and e"),
    ("o._j. simpson's trial", "o j simpson's trial"),
    ("the o._j._simpson trial", "the o j simpson trial"),
    ("in st. louis", "in st louis"),
    ("mr. rogers was on p._b._s.", "mr rogers was on p b s"),
    ("[noise] oh", "oh"),
    ("[laughter] [noise]", ""),
    ("[laugh] oh my god [laughter]", "oh my god"),
    ("[sigh] i don't know", "i don't know"),
    ("[cough] excuse me [sneeze]", "excuse me"),
    ("[mn] [lipsmack] okay", "okay"),
    ("[breath] well [pause] i guess", "well i guess"),
    ("[[skip]]", ""),
    ("(( ))", ""),
    ("who turned me onto this he works for (( )) and he", "who turned me onto this he works for and he"),
    ("(( i think so ))", "i think so"),
    ("g._e._d. classes (( at the )) community college", "g e d classes at the community college"),
    ("<german (( ja wohl )) >", "ja wohl"),
    ("an- so the topic is", "an- so the topic is"),
    ("i i- i wa- i was", "i i- i wa- i was"),
    ("-kay so what do you think", "-kay so what do you think"),
    ("and - and then we left", "and and then we left"),
    ("*mandatory overtime", "mandatory overtime"),
    ("do you have any pets?", "do you have any pets"),
    ("no, not really", "no not really"),
    ("wow!", "wow"),
]

CALLHOME: list[tuple[str, str]] = [
    ("Hello?", "hello"),
    ("%ah Tayyib", "ah tayyib"),
    ("So %um, how are you?", "so um how are you"),
    ("%mm %hm.", "mm hm"),
    ("%huh? {sneeze} What?", "huh what"),
    ("twenty-five dollars an hour", "twenty-five dollars an hour"),
    ("{laugh} I know.", "i know"),
    ("{breath} {lipsmack}", ""),
    ("mhm {cough} mhm", "mhm mhm"),
    ("&Mary &Jones lives in &Arizona.", "mary jones lives in arizona"),
    ("&Harper's is over by &Joe's &Grill", "harper's is over by joe's grill"),
    ("&New &York, &New &York", "new york new york"),
    ("You saw &Joe?!", "you saw joe"),
    ("Oh, &Mr. &Smith called.", "oh mr smith called"),
    ("She lives in &D.C.", "she lives in d c"),
    ("[distortion] I can't hear you [/distortion]", "i can't hear you"),
    ("[background noise] uh-huh", "uh-huh"),
    ("Yes [buzz] yes.", "yes yes"),
    ("{laugh} {laugh} [static]", ""),
    ("No [[previous word lengthened]] way", "no way"),
    ("[[speaker is singing]] Happy birthday to you", "happy birthday to you"),
    ("((coffee klatch))", "coffee klatch"),
    ("and then (( )) went home", "and then went home"),
    ("[[speaker laughs]] ((&Krakow)) or something", "krakow or something"),
    ("<English going to California>", "going to california"),
    ("<Spanish muy bien>", "muy bien"),
    ("<French c'est la vie> {laugh}", "c'est la vie"),
    ("<Hebrew &Shabbat shalom>, &Rachel", "shabbat shalom rachel"),
    ("<? ayo canoli>", "ayo canoli"),
    ("<? (( ))>", ""),
    ("absolu- absolutely", "absolu- absolutely"),
    ("the -tion is hard", "the -tion is hard"),
    ("#yeah# I know", "yeah i know"),
    ("#no no# wait", "no no wait"),
    ("//quit it, I'm talking to your sister!//", "quit it i'm talking to your sister"),
    ("Yeah. //&John, turn it down.// Sorry.", "yeah john turn it down sorry"),
    ("+probably+ not", "probably not"),
    ("it was +nucular+, I think", "it was nucular i think"),
    ("+excape+. {sigh}", "excape"),
    ("it's **poodle-ish**", "it's poodle-ish"),
    ("a **schmoozefest**.", "a schmoozefest"),
    ("I saw &Joe yesterday coming out of --", "i saw joe yesterday coming out of"),
    ("-- the music store on &Seventeenth and &Chestnut.", "the music store on seventeenth and chestnut"),
    ("w- we're -- w- we went", "w- we're w- we went"),
    ("I didn't -- I couldn't 'cause he's sick.", "i didn't i couldn't 'cause he's sick"),
    ("I watch it on T.V. all the time.", "i watch it on t v all the time"),
    ("He got his P.H.D., you know.", "he got his p h d you know"),
    ("Do you get C.N.N.?", "do you get c n n"),
    ("My parents' V.C.R.'s broken", "my parents' v c r's broken"),
    ('And she goes, "%um no."', "and she goes um no"),
    ('"&Tommy," I said', "tommy i said"),
]

HESITATION = "{ uh / um / eh / mm / hm / ah / huh / ha / er / oof / hee / ach / eee / ew / @ }"

HUB5: list[tuple[str, str]] = [
    ("OH YEAH", "oh yeah"),
    ("WELL I AM GOING TO HAVE MINE IN TWO MORE CLASSES", "well i am going to have mine in two more classes"),
    ("I MIGHT EVEN WANT TO GO ON AND GET MY P H D", "i might even want to go on and get my p h d"),
    ("A T AND T", "a t and t"),
    ("TWENTY-FIVE DOLLARS", "twenty-five dollars"),
    ("UH-HUH", "uh-huh"),
    ("MHM", "mhm"),
    ("HMM", "hmm"),
    ("(%HESITATION) I DON'T KNOW", f"{HESITATION} i don't know"),
    ("AND (%HESITATION) (%HESITATION) THEN", f"and {HESITATION} {HESITATION} then"),
    ("((%HESITATION) NO", f"{HESITATION} no"),
    ("UH I THINK SO", f"{HESITATION} i think so"),
    ("(UH) YEAH", f"{HESITATION} yeah"),
    ("UM YEAH UM", f"{HESITATION} yeah {HESITATION}"),
    ("HUH I HADN'T HEARD THAT", f"{HESITATION} i hadn't heard that"),
    ("HM", HESITATION),
    ("AH THAT'S GREAT", f"{HESITATION} that's great"),
    ("ER NO", f"{HESITATION} no"),
    ("MM I LIKE THAT", f"{HESITATION} i like that"),
    ("EW THAT'S GROSS", f"{HESITATION} that's gross"),
    ("HA HA", f"{HESITATION} {HESITATION}"),
    ("(%AH) REALLY", f"{HESITATION} really"),
    ("%UM NOT ANY MORE", f"{HESITATION} not any more"),
    ("EH (W-) WHATEVER", f"{HESITATION} {{ w- / @ }} whatever"),
    ("(OH) I SEE", "{ oh / @ } i see"),
    ("(OH-) OH OKAY", "{ oh- / @ } oh okay"),
    ("UM-HUM (UM-HUM)", "um-hum { um-hum / @ }"),
    ("OKAY (OKAY) BYE-BYE", "okay { okay / @ } bye-bye"),
    ("'CAUSE (HE'S) HE'S COMING", "'cause { he's / @ } he's coming"),
    ("((WITH) HIM", "{ with / @ } him"),
    ("TH- THAT'S RIGHT", "{ th- / @ } that's right"),
    ("(I-) (I-) I DO", "{ i- / @ } { i- / @ } i do"),
    ("WE WENT TO (SAN-) SAN ANTONIO", "we went to { san- / @ } san antonio"),
    ("-KAY BYE", "{ -kay / @ } bye"),
    (
        "(QUI-) YEAH IT SHOULD BE QUICK AND PAINLESS AND (%HESITATION) (I-) ((WITH)",
        f"{{ qui- / @ }} yeah it should be quick and painless and {HESITATION} {{ i- / @ }} {{ with / @ }}",
    ),
    ("<B_ASIDE> HANG ON <E_ASIDE> SORRY", "hang on sorry"),
    ("<B_ASIDE> <E_ASIDE>", ""),
    ("i've { um / uh } as far as i'm concerned", "i've { um / uh } as far as i'm concerned"),
    ("i think it's { um / uh / i } yes", "i think it's { um / uh / i } yes"),
    ("become more aggressive { -a / @ } and more dominating", "become more aggressive { -a / @ } and more dominating"),
    ("had a long { age-old / age old } problem", "had a long { age-old / age old } problem"),
    (
        "it's {a seventy-two/seventy two} {m g/m_g} so i had to",
        "it's { a seventy-two / seventy two } { m g / m_g } so i had to",
    ),
    ("I { CANNOT / CAN NOT } BELIEVE IT", "i { cannot / can not } believe it"),
    ("YOU KNOW (LI-) LIKE { E-MAIL / EMAIL / @ }", "you know { li- / @ } like { e-mail / email / @ }"),
    ("{ um / uh } (TH-) UH YES", f"{{ um / uh }} {{ th- / @ }} {HESITATION} yes"),
    ("IT'S ON T. V.", "it's on t v"),
    ("THE U. S. ARMY", "the u s army"),
    ("MY V. C. R.'S BROKEN", "my v c r's broken"),
]


@pytest.mark.parametrize(("text", "expected"), SWITCHBOARD)
def test_switchboard(text: str, expected: str) -> None:
    assert normalize_switchboard(text) == expected


@pytest.mark.parametrize(("text", "expected"), FISHER)
def test_fisher(text: str, expected: str) -> None:
    assert normalize_fisher(text) == expected


@pytest.mark.parametrize(("text", "expected"), CALLHOME)
def test_callhome(text: str, expected: str) -> None:
    assert normalize_callhome(text) == expected


@pytest.mark.parametrize(("text", "expected"), HUB5)
def test_hub5(text: str, expected: str) -> None:
    assert normalize_hub5(text) == expected


def test_switchboards_acronyms_become_letters() -> None:
    dictionary = [
        "TV t iy v iy",
        "IBM ay b iy eh m",
        "NASA n ae s ax",
        "OK ow k ey",
        "I ay",
        "them dh eh m",
        "CDs s iy d iy z",
    ]
    acronyms = read_acronyms([*dictionary, "CD s iy d iy"])
    assert acronyms == {"TV", "IBM", "OK", "CD"}
    said = normalize_switchboard("I saw NASA on TV [laughter] and IBM's CDs [laughter-OK]", acronyms)
    assert said == "i saw nasa on t v and i b m's c d's ok"


def test_several_words_in_parentheses_may_be_missing_together() -> None:
    assert normalize_hub5("SO (I MEAN I) WENT") == "so { i mean i / @ } went"
