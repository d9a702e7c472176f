"""The whole way over TLS, since what goes to Azure goes over TLS: `sluice run` from the emulator's AMQPS
and HTTPS to the table, with a connection string that holds a key, and with a managed identity's token
from a loopback endpoint. A certificate of another authority is refused, and so is another key.
"""

import os

from events import send_values, values
from machine import Emulator, audit, check, folder, main, run as sluice, same, say, until_caught_up, write_project

HUB = "leads"
PARTITIONS = 2
EVENTS = 500
KEY = "sender=c2VjcmV0LW9mLXRoZS1lbXVsYXRvcg=="


def environment(emulator, ca_file=None, **more):
    """What `sluice` is told of this machine, and no word of another sign-in."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("AZURE_", "IDENTITY_", "MSI_"))}
    env["SSL_CERT_FILE"] = ca_file or emulator.ca_file
    env["IDENTITY_ENDPOINT"] = emulator.identity_endpoint
    env["IDENTITY_HEADER"] = "anything"
    env.update(more)
    return env


def lands(project, emulator, table):
    env = environment(emulator)
    report = until_caught_up(project, env=env)[HUB]
    same((report["committed"], report["rejected"]), (EVENTS, 0), f"events of {table}")
    proof = audit(project, f"bronze.{HUB}", env=env)
    same((proof["complete"], proof["rows"]), (True, EVENTS), f"the audit of {table}")


def refused(project, env, words, what):
    _, said = sluice(["--project", project, "run", "--until-caught-up", "--format", "json"], env=env, expect=3, seconds=120)
    check(any(word in said.lower() for word in words), f"{what}: the error says nothing of {words}:\n{said}")
    check(not (project / "lake" / "bronze" / HUB / "_delta_log").exists(), f"{what}: a table was made all the same")
    check("c2VjcmV0" not in said, f"{what}: the error shows the key")
    say(f"  {what}: refused")


def run():
    with folder() as place, Emulator({HUB: PARTITIONS}, "--tls", "--key", KEY) as emulator:
        check(emulator.event_hubs.startswith("amqps://"), f"not TLS: {emulator.event_hubs}")
        check("UseDevelopmentEmulator" not in emulator.connection_string, "the connection string asks for plain AMQP")
        os.environ["IDENTITY_ENDPOINT"] = emulator.identity_endpoint
        os.environ["IDENTITY_HEADER"] = "anything"
        send_values(emulator, HUB, values(EVENTS), PARTITIONS)

        registry = 'credential = "managed_identity"'
        with_key = f'connection_string = "{emulator.connection_string}"'
        project = write_project(place / "key", emulator, {HUB: ""}, event_hubs=with_key, registry=registry)
        lands(project, emulator, "a connection string with a key")
        say("  with a key: every event, over TLS")

        with_entra = f'namespace = "localhost"\nid = "emulator"\nendpoint = "{emulator.event_hubs}"\ncredential = "managed_identity"'
        project = write_project(place / "entra", emulator, {HUB: ""}, event_hubs=with_entra, registry=registry)
        lands(project, emulator, "a managed identity")
        say("  with a managed identity's token: every event, over TLS")

        wrong_key = with_key.replace("c2VjcmV0LW9mLXRoZS1lbXVsYXRvcg==", "YW5vdGhlciBrZXk=")
        project = write_project(place / "wrong-key", emulator, {HUB: ""}, event_hubs=wrong_key, registry=registry)
        refused(project, environment(emulator), ["unauthorized", "401", "sign-in", "denied"], "another key")

        with Emulator({HUB: 1}, "--tls") as other:
            project = write_project(place / "wrong-authority", emulator, {HUB: ""}, event_hubs=with_key, registry=registry)
            env = environment(emulator, ca_file=other.ca_file)
            refused(project, env, ["certificate", "unknownissuer", "tls"], "a certificate of another authority")


if __name__ == "__main__":
    main(run)
