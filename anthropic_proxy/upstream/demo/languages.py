"""The plainest wishes in German, French and Spanish, said in English: read, run, list, write."""

import re

_KEPT = re.compile(r"```.*?```|`[^`\n]*`|\"[^\"\n]*\"|“[^”\n]*”|«[^»\n]*»|(?<!\w)'[^'\n]*'(?!\w)", re.DOTALL)
_MARK = re.compile("\0(\\d+)\0")

_LIST_IN = "list the files in"

_GERMAN = (
    (r"\bf(?:ü|ue)hr(?:e|en sie)?\s+(?:bitte |mal |doch )*(.+?)\s+aus\b", r"run \1"),
    (r"\bden Befehl:?\s+(.+?)\s+ausf(?:ü|ue)hren\b", r"run \1"),
    (r"\bstarte\s+(?=den Befehl)", "run "),
    (r"\b(\S+)\s+(?:vor)?lesen\b", r"read \1"),
    (r"\b(?:lies|lese|lesen sie|öffne|oeffne|öffnen sie)\b", "read"),
    (r"\bwas steht in\b", "read"),
    (r"\bschreib(?:e|en sie)?\b", "write"),
    (r"\b(?:liste|zeige?|zeigen sie)\s+(?:bitte |mir )*(?:alle |die )*(?:Dateien|Ordner)\b", "list the files"),
    (
        r"\b(?:liste|zeige?)\s+(?:bitte |mir )*den Inhalt (?:des|vom|im) (?:Ordners?|Verzeichniss?e?s?)\b",
        _LIST_IN,
    ),
    (r"\bwelche Dateien (?:sind|liegen|gibt es|stehen)\b", "list the files"),
    (r"\b(?:zeige?|zeigen sie)\s+(?:bitte |mir )*(?:den )?(?:Inhalt (?:von|der Datei))", "read"),
    (r"\b(?:im|in dem|des) (?:Ordners?|Verzeichniss?e?s?)\b", "in the folder"),
    (r"\b(?:in|nach|unter) (?:die|der) Datei\b", "to the file"),
    (r"\b(?:die|der) Datei\b", "the file"),
    (r"\b(?:den|der|folgenden) (?:folgenden )?(?:Shell-?)?Befehl\b", "the command"),
    (r"\s+(?:auf|vor|an)\s*([.!?]?\s*)$", r"\1"),
    (r"\bbitte\b", "please"),
    (r"\bund dann\b", "and then"),
)
_FRENCH = (
    (r"\b(?:exécute[rz]?|execute[rz]|lance[rz]?)\b", "run"),
    (r"\b(?:lis|lire|lisez|ouvre[rz]?|ouvrir)\b", "read"),
    (r"\b(?:que|qu'est-ce que) contient\b", "read"),
    (r"\b(?:écris|écrire|écrivez)\b", "write"),
    (r"\b(?:liste[rz]?|affiche[rz]?|montre[rz]?)(?:-moi)?\s+(?:tous )?les fichiers\b", "list the files"),
    (r"\b(?:liste[rz]?|affiche[rz]?)\s+le contenu du (?:dossier|répertoire)\b", _LIST_IN),
    (r"\bquels fichiers (?:y a-t-il|sont|se trouvent)\b", "list the files"),
    (r"\b(?:affiche[rz]?|montre[rz]?)(?:-moi)?\s+(?:le contenu (?:de|du fichier)\b)?", "read "),
    (r"\b(?:dans le|du) (?:dossier|répertoire)\b", "in the folder"),
    (r"\bdans le fichier\b", "to the file"),
    (r"\b(?:le|du) fichier\b", "the file"),
    (r"\bla commande\b", "the command"),
    (r"\bdans\b", "in"),
    (r"\bs'il (?:te|vous) pla[iî]t\b", "please"),
    (r"\bet puis\b|\bpuis\b", "then"),
)
_SPANISH = (
    (r"\b(?:ejecuta[r]?|ejecute|corre[r]?|lanza[r]?)\b", "run"),
    (r"\b(?:lee[r]?|lea|abre|abrir|abra)\b", "read"),
    (r"\bqué (?:dice|contiene|hay en el archivo)\b", "read"),
    (r"\b(?:escribe|escribir|escriba)\b", "write"),
    (r"\b(?:lista[r]?|liste|muestra|mostrar|enseña)(?:me)?\s+(?:todos )?los (?:archivos|ficheros)\b", "list the files"),
    (r"\b(?:lista[r]?|muestra)\s+el contenido (?:del directorio|de la carpeta)\b", _LIST_IN),
    (r"\bqué (?:archivos|ficheros) (?:hay|están|tiene)\b", "list the files"),
    (r"\b(?:muestra|mostrar|enseña)(?:me)?\s+(?:el contenido (?:de|del archivo)\b)?", "read "),
    (r"\b(?:en la|de la|en el|del) (?:carpeta|directorio)\b", "in the folder"),
    (r"\b(?:en|al) (?:el )?(?:archivo|fichero)\b", "to the file"),
    (r"\b(?:el|del) (?:archivo|fichero)\b", "the file"),
    (r"\bel comando\b", "the command"),
    (r"\b(?:en|de)\b", "in"),
    (r"\bpor favor\b", "please"),
    (r"\by luego\b|\bluego\b", "then"),
)
_A_FILE = r"\s+(?:bitte |mal |mir )*(?:die|den|das|le|la|les|el|los|las|\0|\S*[./]\S)"
"""What follows a verb that is a word of English too, or a name: `lies`, `Lee`."""
_SIGNS = (
    r"\bf(?:ü|ue)hre?\b.+\baus\b|\bausf(?:ü|ue)hren\b|\b(?:vor)?lesen\b"
    r"|\b(?:öffne|oeffne|schreibe?|zeige?|welche|was steht)\b"
    rf"|\b(?:lies|lese){_A_FILE}|\b(?:liste|starte)\s+(?:bitte |mir )*(?:alle|die|den|das)\b",
    r"\b(?:exécute[rz]?|écris|écrire|écrivez|affiche[rz]?|montre[rz]?|quels|que contient)\b"
    rf"|\b(?:lis|lire|lisez|ouvre[rz]?|ouvrir|execute[rz]){_A_FILE}|\b(?:liste[rz]?|lance[rz]?)\s+(?:les?|la|tous)\b",
    r"\b(?:ejecuta[r]?|ejecute|escribe|escribir|escriba|muestra|mostrar|qué|lista[r]?|enseña)\b"
    rf"|\b(?:lee[r]?|lea|abre|abrir|abra){_A_FILE}|\bcorre[r]?\s+el\b",
)
_LANGUAGES = tuple(
    (re.compile(sign, re.IGNORECASE), [(re.compile(pattern, re.IGNORECASE), words) for pattern, words in rules])
    for sign, rules in zip(_SIGNS, (_GERMAN, _FRENCH, _SPANISH), strict=True)
)


def say_in_english(prompt: str) -> str:
    """Return the prompt with the wishes that are known in another language in English; quotes and code stay."""
    kept: list[str] = []

    def keep(match: re.Match[str]) -> str:
        kept.append(match[0])
        return f"\0{len(kept) - 1}\0"

    open_text = _KEPT.sub(keep, prompt.replace("\0", ""))
    said = "\n".join(map(_say_line, open_text.split("\n")))
    return _MARK.sub(lambda match: kept[int(match[1])], said)


def _say_line(line: str) -> str:
    rules = next((rules for sign, rules in _LANGUAGES if sign.search(line)), [])
    for pattern, words in rules:
        line = pattern.sub(words, line)
    return line
