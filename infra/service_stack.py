"""What can be rebuilt: the pipeline from photos to a hosted subject, and the API in front of it."""

from __future__ import annotations

from aws_cdk import CfnOutput, Stack
from aws_cdk import aws_kms as kms
from constructs import Construct

from contracts.dead_letters import DEAD_LETTERS_OUTPUT, DeadLetterQueue
from contracts.storage import (
    BASE_MODELS,
    CHECKPOINTS,
    CLASS_IMAGE_SETS,
    DATASETS,
    GENERATIONS,
    INFERENCE,
    INFERENCE_FAILURE,
    INFERENCE_OUTPUT,
    MADE_OF_A_SUBJECT,
    MANIFEST,
    MANIFESTS,
    MODELS,
    PROGRESS,
    PROMOTED,
    REPORTS,
    SNAPSHOTS,
    SOURCES,
    class_image_folder,
)
from infra.constructs.alarms import Alarms
from infra.constructs.dashboard import Dashboard
from infra.constructs.dataset_intake import DatasetIntake
from infra.constructs.endpoint_keeping import EndpointKeeping
from infra.constructs.functions import Functions
from infra.constructs.generation_api import GenerationApi
from infra.constructs.messaging import topic
from infra.constructs.model_hosting import ModelHosting
from infra.constructs.private_network import PrivateNetwork
from infra.constructs.removal import Removal
from infra.constructs.subject_deletion import SubjectDeletion
from infra.constructs.training_pipeline import TrainingPipeline
from infra.data_stack import DataStack
from infra.grants import (
    abort_uploads,
    encrypt_volumes,
    erase_objects,
    keep_rows,
    leave_lines,
    list_objects,
    pass_to_sagemaker,
    publish,
    read_objects,
    send,
    write_objects,
)
from infra.settings import Settings


class ServiceStack(Stack):
    def __init__(self, scope: Construct, id: str, *, settings: Settings, data: DataStack) -> None:
        super().__init__(
            scope,
            id,
            description="Dreamdrop: from dropped photos to pictures on request.",
            termination_protection=settings.termination_protection,
        )
        bucket, table = data.bucket, data.table
        # By its address: what the library would add to the key's policy would tie the data stack to this one.
        key = kms.Key.from_key_arn(self, "Key", data.key.key_arn) if data.key else None
        subject_topic = topic(self, "SubjectTopic", key=key)
        functions = Functions(self, "Functions", settings=settings, bucket=bucket, table=table, key=key)
        network = (
            PrivateNetwork(self, "Network", functions=functions, bucket=bucket) if settings.private_hosting else None
        )
        alarms = Alarms(self, "Alarms", key=key)
        hosting = ModelHosting(
            self, "Hosting", settings=settings, functions=functions, network=network, alarm_topic=alarms.topic
        )
        training = TrainingPipeline(
            self,
            "Training",
            settings=settings,
            functions=functions,
            host_model=hosting.host_model,
            subject_topic=subject_topic,
        )
        removal = Removal(
            self,
            "Removal",
            settings=settings,
            functions=functions,
            endpoints=hosting.endpoints,
            training=training,
            inference_role=hosting.role,
            network=network,
        )
        keeping = EndpointKeeping(
            self,
            "Keeping",
            functions=functions,
            environment=hosting.environment,
            notices=hosting.notices,
            dead_letters=hosting.notices_dead_letters,
        )
        intake = DatasetIntake(
            self,
            "Intake",
            functions=functions,
            bucket=bucket,
            machine=training.machine,
            subject_topic=subject_topic,
            quiet_period_seconds=settings.quiet_period_seconds,
        )
        for beginning in (intake, keeping):  # nothing begins after everything has been stopped
            beginning.node.add_dependency(removal.resource)
        deletion = SubjectDeletion(self, "Deletion", functions=functions, machine=training.machine)
        api = GenerationApi(
            self,
            "Api",
            settings=settings,
            functions=functions,
            deletion_queue=deletion.queue,
            hosting_queue=hosting.notices,
        )
        watched = {
            "Datasets": intake.dead_letters,
            "Generations": hosting.dead_letters,
            "BrokenExecutions": training.broken_executions,
            "UnsettledTrainings": training.unsettled_trainings,
            "Deletions": deletion.dead_letters,
            "Endpoints": hosting.notices_dead_letters,
        }
        sources = {
            "Datasets": intake.queue,
            "Generations": hosting.answers,
            "Deletions": deletion.queue,
            "Endpoints": hosting.notices,
        }
        refusing = {"BrokenExecutions": training.close_execution, "UnsettledTrainings": training.settle_training}
        alarms.watch(
            settings.prefix,
            dead_letters=watched,
            machine=training.machine,
            daily_dollars=settings.daily_budget_dollars,
        )
        Dashboard(self, "Dashboard", prefix=settings.prefix, dead_letters=watched, machine=training.machine)

        states = training.states
        for function in (
            states.check_dataset,
            states.judge_model,
            states.publish_model,
            states.tell_ready,
            states.tell_failed,
            states.recover,
            training.close_execution,
            training.settle_training,
            hosting.record_generation,
        ):
            keep_rows(table, function)
        keep_rows(table, states.plan_training, "PutItem")
        for function in (states.host_model, keeping.keep_endpoint):
            keep_rows(table, function, "Query")
        for function in (intake.take_dataset, api.function):
            keep_rows(table, function, "PutItem", "Query")
        keep_rows(table, deletion.delete_subject, "PutItem", "Query", "DeleteItem")
        for function in (hosting.record_generation, keeping.keep_endpoint, api.function):
            leave_lines(table, function)
        for function in (intake.take_dataset, states.tell_ready, states.tell_failed, training.close_execution):
            publish(subject_topic, key, function)

        list_objects(bucket, intake.take_dataset, f"{DATASETS}*")
        write_objects(bucket, intake.take_dataset, f"{MANIFESTS}*")
        training.machine.grant_start_execution(intake.take_dataset)

        manifests = (f"{BASE_MODELS}*/{MANIFEST}", f"{MODELS}*/{MANIFEST}")
        read_objects(bucket, states.check_dataset, f"{DATASETS}*", f"{MANIFESTS}*", *manifests)
        write_objects(bucket, states.check_dataset, f"{SNAPSHOTS}*", f"{REPORTS}*")
        read_objects(bucket, states.plan_training, f"{BASE_MODELS}*/{MANIFEST}")
        read_objects(
            bucket,
            training.role,
            *(f"{part}*" for part in (SNAPSHOTS, BASE_MODELS, MODELS, CHECKPOINTS, CLASS_IMAGE_SETS)),
        )
        write_objects(bucket, training.role, f"{MODELS}*", f"{CHECKPOINTS}*")

        read_objects(bucket, states.judge_model, f"{MODELS}*")
        read_objects(bucket, states.publish_model, f"{MODELS}*", f"{CHECKPOINTS}*/{class_image_folder('*')}")
        write_objects(bucket, states.publish_model, f"{MODELS}*/{MANIFEST}", f"{CLASS_IMAGE_SETS}*")
        read_objects(bucket, states.host_model, f"{BASE_MODELS}*/{MANIFEST}", f"{MODELS}*/{PROMOTED}")
        write_objects(bucket, states.host_model, f"{MODELS}*/{PROMOTED}")

        for function in (states.host_model, keeping.keep_endpoint):
            hosting.endpoints.make(function)
            hosting.endpoints.tell_ours(function)
            pass_to_sagemaker(hosting.role, function)
            if settings.inference_has_volume:
                encrypt_volumes(key, function)
        for function in (states.host_model, keeping.keep_endpoint, api.function):
            send(hosting.notices, key, function)
        read_objects(bucket, keeping.keep_endpoint, *manifests)

        read_objects(bucket, hosting.role, f"{BASE_MODELS}*", f"{MODELS}*", f"{SOURCES}*")
        answers = (f"{INFERENCE_OUTPUT}/*", f"{INFERENCE_FAILURE}/*")
        write_objects(bucket, hosting.role, *answers)
        abort_uploads(bucket, hosting.role, *answers)
        read_objects(bucket, hosting.record_generation, f"{INFERENCE}*")
        write_objects(bucket, hosting.record_generation, f"{GENERATIONS}*")

        read_objects(
            bucket,
            api.function,
            f"{GENERATIONS}*",
            f"{CHECKPOINTS}*/{PROGRESS}",
            f"{MODELS}*/{MANIFEST}",
            f"{SOURCES}*",  # whether it is there
        )
        write_objects(bucket, api.function, f"{SOURCES}*")
        for function in (keeping.keep_endpoint, api.function):
            hosting.endpoints.draw(function)
        for function in (keeping.keep_endpoint, deletion.delete_subject):
            hosting.endpoints.remove(function)
        hosting.endpoints.update(states.host_model)

        drawn = (GENERATIONS, f"{INFERENCE_OUTPUT}/", f"{INFERENCE_FAILURE}/")
        erase_objects(bucket, deletion.delete_subject, *MADE_OF_A_SUBJECT, CLASS_IMAGE_SETS, *drawn)
        erase_objects(bucket, hosting.record_generation, *drawn)
        send(deletion.queue, key, api.function)

        CfnOutput(self, "ApiUrl", value=api.url)
        CfnOutput(self, "StateMachineArn", value=training.machine.state_machine_arn)
        CfnOutput(self, "SubjectTopicArn", value=subject_topic.topic_arn)
        CfnOutput(self, "AlarmTopicArn", value=alarms.topic.topic_arn)
        aside = {
            about: DeadLetterQueue(
                url=queue.queue_url,
                source_url=sources[about].queue_url if about in sources else None,
                function_name=refusing[about].function_name if about in refusing else None,
            ).model_dump(exclude_none=True)
            for about, queue in watched.items()
        }
        CfnOutput(self, DEAD_LETTERS_OUTPUT, value=self.to_json_string(aside))
