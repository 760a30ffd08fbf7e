{{/* Full name of the release's objects: short enough for a suffix. */}}
{{- define "trainyard.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Labels by which the operator's pod is found; they never change in the life of a release. */}}
{{- define "trainyard.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{/* Labels of every object. */}}
{{- define "trainyard.labels" -}}
{{ include "trainyard.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "trainyard.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "trainyard.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name must name the existing ServiceAccount when serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "trainyard.image" -}}
{{- include "trainyard.imageName" (list . .Values.image) -}}
{{- end -}}

{{- define "trainyard.trainerImage" -}}
{{- include "trainyard.imageName" (list . .Values.trainerImage) -}}
{{- end -}}

{{/* The name of an image, from the root and its values. */}}
{{- define "trainyard.imageName" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default $root.Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The subject of every binding. */}}
{{- define "trainyard.subjects" -}}
- kind: ServiceAccount
  name: {{ include "trainyard.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
{{- end -}}

{{/* What the operator may do where the jobs are. */}}
{{- define "trainyard.jobRules" -}}
# The jobs: read, and delete those whose ttlSecondsAfterFinished is over. Their spec is never written.
- apiGroups: [trainyard.dev]
  resources: [distributedjobs, federatedjobs]
  verbs: [get, list, watch, delete]
# `patch` is for replicas of an earlier release: they act until those of this one are ready, and
# after a rollback. It allows nothing that `update` does not.
- apiGroups: [trainyard.dev]
  resources: [distributedjobs/status, federatedjobs/status]
  verbs: [update, patch]
# Owner references with blockOwnerDeletion need this where the admission plug-in
# OwnerReferencesPermissionEnforcement is on.
- apiGroups: [trainyard.dev]
  resources: [distributedjobs/finalizers, federatedjobs/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, delete]
# One headless Service in each namespace with jobs: made once, read to see whose it is, never changed.
- apiGroups: [""]
  resources: [services]
  verbs: [create, get]
# Certificates of the pods go in. No Secret of a job's namespace is asked for; to see whether one is
# still there, the operator patches nothing and has its metadata alone answered.
- apiGroups: [""]
  resources: [secrets]
  verbs: [create, patch]
# Why a pod does not start: the Events of one pod are listed once it has stood still for a while.
- apiGroups: [""]
  resources: [events]
  verbs: [create, list]
{{- end -}}

{{/* The condition by which an admission policy concerns the operator's account alone. */}}
{{- define "trainyard.isOperator" -}}
- name: is-the-operator
  expression: request.userInfo.username == {{ . | squote }}
{{- end -}}

{{/* Whether the object %[1]s has a job for its controller, in CEL. */}}
{{- define "trainyard.isOwner" -}}
%[1]s.metadata.ownerReferences.exists(o, o.apiVersion.startsWith('trainyard.dev/') && o.kind in ['DistributedJob', 'FederatedJob'] && has(o.controller) && o.controller)
{{- end -}}

{{/* Variables: whether an object is a job's, and whether it was. */}}
{{- define "trainyard.ownedVariables" -}}
- name: isOwned
  expression: >-
    has(object.metadata.ownerReferences) && {{ printf (include "trainyard.isOwner" .) "object" }}
- name: wasOwned
  expression: >-
    has(oldObject.metadata.ownerReferences) && {{ printf (include "trainyard.isOwner" .) "oldObject" }}
{{- end -}}

{{/* Whether jobs may be in the namespace of a request, in CEL. */}}
{{- define "trainyard.servedNamespace" -}}
!request.namespace.startsWith('kube-') && !(request.namespace in {{ include "trainyard.celList" (prepend .Values.admissionPolicies.protectedNamespaces .Release.Namespace) }})
{{- end -}}

{{/* A list of strings in CEL. */}}
{{- define "trainyard.celList" -}}
[{{ range $n, $text := . }}{{ if $n }}, {{ end }}'{{ $text }}'{{ end }}]
{{- end -}}
